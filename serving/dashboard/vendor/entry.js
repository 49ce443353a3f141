// What the pages use of the four libraries.
import { h } from "preact";
import htm from "htm";

export { h, render, Fragment } from "preact";
export { useState, useEffect, useRef, useMemo, useLayoutEffect, useCallback } from "preact/hooks";
export { signal, computed, effect, batch } from "@preact/signals";
export const html = htm.bind(h);
export { default as uPlot } from "uplot";
