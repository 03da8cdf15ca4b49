// A terminal in the page, on the WebSocket at terminal/ws. Query: sessionId, shell, workingDir.
"use strict";

const PAUSE_BYTES = 1 << 20; // what xterm has not drawn yet: more of it would only wait in memory
const RESUME_BYTES = 1 << 17;
const MAX_RETRY_MS = 10_000;
const THEMES = {
  dark: { background: "#16181d", foreground: "#e4e6eb", cursor: "#e4e6eb", selectionBackground: "#3d4a66" },
  light: {
    background: "#ffffff",
    foreground: "#1f2328",
    cursor: "#1f2328",
    selectionBackground: "#b6d5ff",
    blue: "#0550ae",
    brightBlue: "#0969da",
    yellow: "#7d5200",
    brightYellow: "#946200",
    green: "#0a6b2d",
    brightGreen: "#137a38",
    cyan: "#0b6b78",
    brightCyan: "#0f7d8c",
    white: "#57606a",
    brightWhite: "#24292f",
  },
};

const query = new URLSearchParams(location.search);
const dark = matchMedia("(prefers-color-scheme: dark)");
const terminal = new Terminal({
  allowProposedApi: true, // the width of emoji, as programs see it
  cursorBlink: true,
  fontFamily: "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace",
  fontSize: 14,
  scrollback: 10_000,
  theme: THEMES[dark.matches ? "dark" : "light"],
});
const fit = new FitAddon.FitAddon();
const encoder = new TextEncoder();
const statusLine = document.getElementById("status");

let socket = null;
let waiting = 0; // bytes that xterm has not drawn yet
let paused = false;
let ended = false; // the shell has ended: a key begins a new one
let retryMs = 0;
let timer = 0;

function address() {
  const url = new URL("terminal/ws", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = "";
  for (const name of ["sessionId", "shell", "workingDir", "token", "bl_preview_token"]) {
    if (query.has(name)) url.searchParams.set(name, query.get(name));
  }
  url.searchParams.set("cols", terminal.cols);
  url.searchParams.set("rows", terminal.rows);
  url.searchParams.set("encoding", "binary");
  return url;
}

function say(text) {
  statusLine.textContent = text;
  statusLine.hidden = !text;
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(message);
}

function control(message) {
  send(JSON.stringify(message));
}

function connect() {
  clearTimeout(timer);
  const mine = new WebSocket(address());
  socket = mine;
  mine.binaryType = "arraybuffer";
  mine.onopen = () => {
    terminal.reset(); // what was there comes again
    waiting = 0;
    paused = ended = false;
    retryMs = 0;
    say("");
  };
  mine.onmessage = ({ data }) => {
    if (socket !== mine) return;
    if (typeof data === "string") {
      heed(JSON.parse(data));
    } else {
      draw(new Uint8Array(data));
    }
  };
  mine.onclose = () => {
    if (socket === mine && !ended) retry();
  };
}

function draw(bytes) {
  waiting += bytes.length;
  if (waiting > PAUSE_BYTES && !paused) {
    paused = true;
    control({ type: "pause" });
  }
  terminal.write(bytes, () => {
    waiting -= bytes.length;
    if (paused && waiting < RESUME_BYTES) {
      paused = false;
      control({ type: "resume" });
    }
  });
}

function heed(message) {
  if (message.type === "exit") {
    const how = message.signal ? `by ${message.signal}` : `with exit code ${message.exitCode}`;
    finish(`The shell has ended ${how}.`);
  } else if (message.type === "error") {
    finish(message.data);
  }
}

function finish(text) {
  ended = true;
  terminal.write(`\r\n\x1b[0;7m ${text} \x1b[0m Press Enter for a new one.\r\n`);
}

function retry() {
  retryMs = Math.min(retryMs * 2 || 500, MAX_RETRY_MS);
  say("Connection lost. Connecting again…");
  timer = setTimeout(connect, retryMs);
}

terminal.loadAddon(fit);
terminal.loadAddon(new Unicode11Addon.Unicode11Addon());
terminal.unicode.activeVersion = "11";
terminal.loadAddon(new WebLinksAddon.WebLinksAddon());
terminal.open(document.getElementById("terminal"));
fit.fit();
terminal.focus();

terminal.onData((text) => {
  if (!ended) {
    send(encoder.encode(text));
  } else if (text === "\r") {
    connect();
  }
});
terminal.onBinary((text) => send(Uint8Array.from(text, (character) => character.charCodeAt(0))));
terminal.onResize(({ cols, rows }) => control({ type: "resize", cols, rows }));

// Ctrl-C is a signal; with Shift it copies what is selected. Pasting is the browser's own.
terminal.attachCustomKeyEventHandler((event) => {
  const copies = event.type === "keydown" && event.ctrlKey && event.shiftKey && event.code === "KeyC";
  if (copies && terminal.hasSelection()) {
    event.preventDefault();
    navigator.clipboard?.writeText(terminal.getSelection()).catch(() => document.execCommand("copy"));
    return false;
  }
  return !(event.ctrlKey && event.shiftKey && event.code === "KeyV");
});

new ResizeObserver(() => fit.fit()).observe(document.getElementById("terminal"));
dark.addEventListener("change", () => {
  terminal.options.theme = THEMES[dark.matches ? "dark" : "light"];
});
window.addEventListener("online", () => {
  if (!ended && socket.readyState === WebSocket.CLOSED) connect();
});

connect();
