// Numbers and names as people read them. Amounts come in micro-credits, times in milliseconds.

const CREDIT = 1e6;

/** Credits with a fixed number of decimals. */
export const credits = (amount, digits = 2) =>
  (amount / CREDIT).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Credits of a payment for an answer, which is small. */
export const cost = (amount) => credits(amount, 6);

/** Credits in few digits, for tiles and pictures. */
export function creditsShort(amount) {
  const value = amount / CREDIT;
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toLocaleString("en", { maximumFractionDigits: 2 })} M`;
  return value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) >= 1000 ? 0 : 2 });
}

export const count = (number) => number.toLocaleString("en");

export const percent = (share, digits = 0) =>
  `${(100 * share).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} %`;

/** `1 block`, `2 blocks`. */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Counts by name, the most first: `3 busy, 1 hold`. */
export const counts = (byName) =>
  Object.entries(byName).sort((a, b) => b[1] - a[1]).map(([name, number]) => `${count(number)} ${name}`).join(", ");

/** An address or hash by its ends. */
export const short = (text, head = 8, tail = 4) =>
  text.length > head + tail + 1 ? `${text.slice(0, head)}…${text.slice(-tail)}` : text;

/** A duration in the unit that fits it. */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/** How long ago, in whole seconds or more. */
export function age(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  return seconds < 120 ? `${seconds} s` : duration(1000 * seconds);
}

const two = (number) => String(number).padStart(2, "0");

/** Time of the day, with 24 hours. */
export function clockTime(ms, withSeconds = true) {
  const date = new Date(ms);
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return withSeconds ? `${minutes}:${two(date.getSeconds())}` : minutes;
}

/** Date and time, with the zone. */
export const dateTime = (ms) =>
  new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "long" });

export const bytes = (size) =>
  size < 1024 ? `${size} B` : size < 1048576 ? `${(size / 1024).toFixed(1)} kB` : `${(size / 1048576).toFixed(1)} MB`;
