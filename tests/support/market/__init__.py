"""What whole nodes of a simulated market meet: cheats, faults, duels and checks."""
