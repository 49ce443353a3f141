"""Attacks by payers, and by strangers that offer requests, on executors."""
