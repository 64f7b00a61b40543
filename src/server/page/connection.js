
// A connection to a WebSocket server, the log of what passes over it, and a repeat that measures round trips.
//
// What a peer has sent only ever becomes text: nothing here makes HTML of a string, and the policy that the server sends
// along (Trusted Types, no `eval`) makes the browser refuse it.

/** How much of a message the log keeps, in UTF-16 units of text and in bytes. */
const TEXT_SHOWN_MAX = 4096;
const BYTES_SHOWN_MAX = 1024;
/** Before each attempt to reconnect, in seconds; the last one again and again. */
const RECONNECT_DELAYS_S = [0, 2, 10, 30];
/** A connection that lived shorter than this does not start the delays over: it would be a loop without a pause. */
const STEADY_MS = 5000;
/** Messages that a repeat has under way, and bytes that the browser may hold, before it waits for echoes. */
const IN_FLIGHT_MAX = 1000;
const BUFFERED_MAX = 8 << 20;
const TICK_MS = 5;
const FIGURES_MS = 250;
const SPARK_ECHOES = 200;
/** The longest reason of a Close, in bytes (RFC 6455 §5.5). */
const REASON_MAX = 123;
const CODE_NAMES = {
  1000: 'normal', 1001: 'going away', 1002: 'protocol error', 1003: 'unsupported data', 1005: 'none was given',
  1006: 'no Close came', 1007: 'not UTF-8', 1008: 'policy', 1009: 'message too big', 1010: 'missing extension',
  1011: 'internal error', 1012: 'service restart', 1013: 'try again later', 1015: 'TLS',
};

const $ = (id) => document.getElementById(id);
const utf8 = new TextEncoder();

/** The socket from Connect until its close event. */
let socket = null;
/** `performance.now()` when it opened; null before. */
let openedAt = null;
/** Whether Close Socket was pressed. */
let isEndAsked = false;
/** Whether the server was reached since Connect was pressed: what never worked is not tried again. */
let wasEverOpen = false;
/** The timer of the next attempt to connect, and how many there have been. */
let attemptTimer = null;
let attempts = 0;
/** What was sent and has no echo yet, oldest first: an echo server answers in order. */
let awaited = [];
/** The repeat that is under way. */
let repeat = null;

$('url').value = ownSocketUrl();
$('connect-form').addEventListener('submit', onConnect);
$('close-form').addEventListener('submit', onCloseSocket);
$('message-form').addEventListener('submit', onSend);
$('repeat-form').addEventListener('submit', onRepeat);
$('reconnect').addEventListener('change', onReconnectChange);
$('message').addEventListener('keydown', onMessageKey);
for (const radio of document.querySelectorAll('input[name="kind"]')) {
  radio.addEventListener('change', showKind);
}
$('clear').addEventListener('click', clearLog);
$('export-json').addEventListener('click', exportJson);
$('export-csv').addEventListener('click', exportCsv);
// A browser may keep over a reload what was chosen.
showKind();

/** Where the server of this page speaks WebSocket: a proxy may have put it under a prefix, and TLS before it. */
function ownSocketUrl() {
  const path = document.querySelector('meta[name="socket-path"]').content;
  const url = new URL('.' + path, location.origin + location.pathname);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  return url.href;
}

// The connection

function onConnect(event) {
  event.preventDefault();
  if (socket) {
    return;
  }
  attempts = 0;
  wasEverOpen = false;
  connect();
}

function connect() {
  clearTimeout(attemptTimer);
  attemptTimer = null;
  $('connect-fault').textContent = '';
  const protocols = $('protocols').value.split(',').map((name) => name.trim()).filter((name) => name !== '');
  let next;
  try {
    next = new WebSocket($('url').value.trim(), protocols);
  } catch (error) {
    // Not a WebSocket URL, not a token, or ws: from a page that came over https:.
    $('connect-fault').textContent = error.message;
    setState('failed', 'Not connected');
    return;
  }
  next.binaryType = 'arraybuffer';
  socket = next;
  openedAt = null;
  isEndAsked = false;
  awaited = [];
  next.addEventListener('open', onOpen);
  next.addEventListener('message', onMessage);
  next.addEventListener('close', (close) => onClose(close, protocols));
  setState('connecting', 'Connecting…');
}

function onOpen() {
  openedAt = performance.now();
  wasEverOpen = true;
  const protocol = socket.protocol && `sub-protocol ${socket.protocol}`;
  setState('open', 'Open', protocol);
  logEvent(['Connection opened', protocol].filter(Boolean).join(', '));
}

function onClose(close, protocols) {
  const lived = openedAt === null ? 0 : performance.now() - openedAt;
  const words = openedAt === null ? failureInWords(protocols) : closeInWords(close);
  const isFault = !isEndAsked && (openedAt === null || !close.wasClean);
  socket = null;
  endRepeat();
  awaited = [];
  logEvent(words, isFault);
  if (lived >= STEADY_MS) {
    attempts = 0;
  }
  if (!isEndAsked && wasEverOpen && $('reconnect').checked) {
    awaitAttempt(words);
  } else if (openedAt === null && !isEndAsked) {
    setState('failed', 'Not connected', words);
  } else {
    setState('closed', 'Closed', words);
  }
}

function awaitAttempt(words) {
  const delay = 1000 * RECONNECT_DELAYS_S[Math.min(attempts, RECONNECT_DELAYS_S.length - 1)];
  attempts += 1;
  attemptTimer = setTimeout(connect, delay);
  const at = delay === 0 ? 'now' : `in ${delay / 1000} s, at ${clock(new Date(Date.now() + delay), false)}`;
  setState('waiting', 'Reconnecting', `${words} Next attempt ${at}.`);
}

function onReconnectChange() {
  if (attemptTimer !== null && !$('reconnect').checked) {
    giveUp();
  }
}

function giveUp() {
  clearTimeout(attemptTimer);
  attemptTimer = null;
  setState('closed', 'Closed', 'No further attempt to reconnect.');
}

function onCloseSocket(event) {
  event.preventDefault();
  $('close-fault').textContent = '';
  if (!socket) {
    if (attemptTimer !== null) {
      giveUp();
    }
    return;
  }
  const code = $('close-code').value.trim();
  const reason = $('close-reason').value.toWellFormed();
  const fault = closeFault(code, reason);
  if (fault) {
    $('close-fault').textContent = fault;
    return;
  }
  isEndAsked = true;
  setState('closing', 'Closing…');
  if (code === '') {
    socket.close();
  } else {
    socket.close(Number(code), reason);
  }
}

/** Why a browser would not send this, in words; null if it would. */
function closeFault(code, reason) {
  const isSendable = code === '1000' || /^[34]\d{3}$/.test(code);
  if (code === '' && reason !== '') {
    return 'A reason needs a code.';
  }
  if (code !== '' && !isSendable) {
    return 'Browsers send 1000 and 3000 to 4999 only; leave it empty for none.';
  }
  const size = utf8.encode(reason).length;
  return size > REASON_MAX ? `A reason has at most ${REASON_MAX} bytes; this has ${size}.` : null;
}

function closeInWords({ code, reason, wasClean }) {
  const name = CODE_NAMES[code] ? ` (${CODE_NAMES[code]})` : '';
  const unanswered = awaited.length ? ` Without an echo: ${awaited.length}.` : '';
  const what = wasClean ? 'Connection closed.' : 'Connection lost.';
  return `${what} Code: ${code}${name}.${reason ? ` Reason: ${reason}.` : ''}${unanswered}`;
}

/** A connection that never opened: browsers keep from pages why. */
function failureInWords(protocols) {
  if (isEndAsked) {
    return 'The attempt was given up.';
  }
  if (protocols.length) {
    return `Could not connect. You offered the sub-protocols ${protocols.join(', ')}: where the server selects none of ` +
      'those offered, the browser has to fail the connection. Leave the field empty and try again.';
  }
  return 'Could not connect. Browsers do not say why: is the server up, the URL right, and this page’s origin allowed?';
}

function setState(state, name, detail = '') {
  $('state').dataset.state = state;
  $('state-name').textContent = name;
  $('state-detail').textContent = detail;
  const canSend = state === 'open';
  setEnabled('connect', !socket);
  setEnabled('close', canSend || state === 'connecting' || state === 'waiting');
  setEnabled('send', canSend);
  setEnabled('repeat', canSend);
}

function setEnabled(id, isEnabled) {
  $(id).setAttribute('aria-disabled', String(!isEnabled));
}

// Messages

function onMessageKey(event) {
  // While an input method composes a character, Enter is its own.
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $('message-form').requestSubmit();
  }
}

function showKind() {
  const isFile = kind() === 'file';
  $('message-field').hidden = isFile;
  $('file-field').hidden = !isFile;
}

function kind() {
  return document.querySelector('input[name="kind"]:checked').value;
}

async function onSend(event) {
  event.preventDefault();
  const message = await readMessage('message-fault');
  if (message) {
    transmit(message, null);
  }
}

/** The message of the form; null, and why in words, where there is none. */
async function readMessage(faultId) {
  $(faultId).textContent = '';
  try {
    const message = await composed();
    if (!isOpen()) {
      throw new Error('Connect first.');
    }
    return message;
  } catch (error) {
    $(faultId).textContent = error.message;
    return null;
  }
}

async function composed() {
  switch (kind()) {
    case 'hex':
      return described(parseHex($('message').value).buffer);
    case 'file':
      if (!$('file').files.length) {
        throw new Error('Choose a file.');
      }
      return described(await $('file').files[0].arrayBuffer());
    default:
      return described($('message').value.toWellFormed());
  }
}

function parseHex(text) {
  const digits = text.replace(/0x|[\s,:]/gi, '');
  if (/[^0-9a-f]/i.test(digits)) {
    throw new Error('Hex has the digits 0 to 9 and a to f; blanks, commas and colons may stand between bytes.');
  }
  if (digits.length % 2) {
    throw new Error(`Hex has two digits a byte; this has ${digits.length}.`);
  }
  return Uint8Array.from(digits.match(/../g) ?? [], (byte) => parseInt(byte, 16));
}

/** A message with what the log says of it. */
function described(data) {
  if (typeof data === 'string') {
    return {
      data, type: 'text', size: utf8.encode(data).length,
      shown: data.slice(0, TEXT_SHOWN_MAX), isCut: data.length > TEXT_SHOWN_MAX,
    };
  }
  const head = new Uint8Array(data, 0, Math.min(data.byteLength, BYTES_SHOWN_MAX));
  const shown = Array.from(head, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return { data, type: 'binary', size: data.byteLength, shown, isCut: data.byteLength > BYTES_SHOWN_MAX };
}

function isOpen() {
  return socket !== null && socket.readyState === WebSocket.OPEN;
}

function transmit(message, ofRepeat) {
  awaited.push({ message, ofRepeat, at: performance.now() });
  socket.send(message.data);
  logMessage('Client', 'Server', 'sent', message, null);
}

function onMessage({ data }) {
  const now = performance.now();
  const sent = awaited.shift();
  const isEcho = sent !== undefined && isSame(sent.message.data, data);
  const message = isEcho ? sent.message : described(data);
  const roundTrip = isEcho ? now - sent.at : null;
  logMessage('Server', 'Client', isEcho ? 'echo' : 'received', message, roundTrip);
  if (sent?.ofRepeat) {
    onRepeated(sent.ofRepeat, roundTrip);
  } else if (isEcho) {
    announce(`Echo of ${sizeInWords(message.size)} after ${millis(roundTrip)}`);
  } else {
    announce(`Received ${sizeInWords(message.size)}, not what was sent`);
  }
}

function isSame(sent, received) {
  if (typeof sent === 'string' || typeof received === 'string' || sent.byteLength !== received.byteLength) {
    return sent === received;
  }
  const [ours, theirs] = [new Uint8Array(sent), new Uint8Array(received)];
  // Not `every`: a call for each byte of a file would be seen in the round trips behind it.
  for (let at = 0; at < ours.length; at += 1) {
    if (ours[at] !== theirs[at]) {
      return false;
    }
  }
  return true;
}

// The repeat

async function onRepeat(event) {
  event.preventDefault();
  if (repeat) {
    endRepeat();
    return;
  }
  const message = await readMessage('repeat-fault');
  if (!message || repeat) {
    return;
  }
  const count = $('repeat-count').valueAsNumber;
  repeat = {
    message, count, rate: $('repeat-rate').valueAsNumber,
    began: performance.now(), sent: 0, answered: 0,
    roundTrips: new Float64Array(count), echoed: 0,
    timer: setInterval(pace, TICK_MS), figuresAt: 0,
  };
  $('repeat').textContent = 'Stop';
  pace();
}

/** Sends what is due. A tab in the background is woken once a second: then it is many at a time. */
function pace() {
  const elapsed = (performance.now() - repeat.began) / 1000;
  const due = repeat.rate === 0 ? repeat.answered + 1 : 1 + Math.floor(elapsed * repeat.rate);
  while (isOpen() && repeat.sent < Math.min(due, repeat.count) &&
      awaited.length < IN_FLIGHT_MAX && socket.bufferedAmount < BUFFERED_MAX) {
    repeat.sent += 1;
    transmit(repeat.message, repeat);
  }
}

function onRepeated(which, roundTrip) {
  if (which !== repeat) {
    return;
  }
  repeat.answered += 1;
  if (roundTrip !== null) {
    repeat.roundTrips[repeat.echoed] = roundTrip;
    repeat.echoed += 1;
  }
  if (repeat.answered === repeat.count) {
    endRepeat();
    return;
  }
  if (repeat.rate === 0) {
    pace();
  }
  if (performance.now() - repeat.figuresAt >= FIGURES_MS) {
    repeat.figuresAt = performance.now();
    showFigures(repeat);
  }
}

function endRepeat() {
  if (!repeat) {
    return;
  }
  const ended = repeat;
  repeat = null;
  clearInterval(ended.timer);
  $('repeat').textContent = 'Start';
  const words = showFigures(ended);
  logEvent(words, ended.echoed < ended.answered);
  announce(words);
}

/** Shows the figures of a repeat, and gives them in words. */
function showFigures({ roundTrips, echoed, sent }) {
  const sorted = roundTrips.slice(0, echoed).sort();
  // The smallest that is no less than so many of them (nearest rank).
  const percentile = (share) => (echoed ? millis(sorted[Math.ceil(share * echoed) - 1]) : '–');
  const figures = { p50: percentile(0.5), p90: percentile(0.9), p99: percentile(0.99), max: percentile(1) };
  $('repeat-echoed').textContent = `${echoed} of ${sent}`;
  for (const [name, value] of Object.entries(figures)) {
    $(`repeat-${name}`).textContent = value;
  }
  drawSpark(roundTrips.subarray(Math.max(0, echoed - SPARK_ECHOES), echoed));
  const list = Object.entries(figures).map(([name, value]) => `${name} ${value}`).join(', ');
  return `Repeat: ${echoed} of ${sent} echoed, ${list}`;
}

function drawSpark(roundTrips) {
  const max = Math.max(...roundTrips);
  const step = 200 / Math.max(roundTrips.length - 1, 1);
  const points = Array.from(roundTrips, (value, at) => `${(at * step).toFixed(1)},${(38 - 36 * value / (max || 1)).toFixed(2)}`);
  $('spark-line').setAttribute('points', points.join(' '));
  $('spark').setAttribute('aria-label', roundTrips.length
    ? `Round-trip times of the last ${roundTrips.length} echoes: ${millis(Math.min(...roundTrips))} to ${millis(max)}`
    : 'Round-trip times: none yet');
}
