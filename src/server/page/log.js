// The log of what passes over the connection, and its export. It stands behind connection.js in the same script.

/** Rows that the log keeps: a repeat must not fill the tab. */
const LOG_ROWS_MAX = 1000;

/** What the log holds, oldest first: up to twice LOG_ROWS_MAX, so that it is not cut at each message. */
let entries = [];
let entriesEver = 0;
/** How many of the last entries have no row in the table yet. */
let unshown = 0;
/** Before this, by `performance.now()`, no rows are made: messages have four fifths of the time. */
let restUntil = 0;

function logMessage(from, to, style, { type, size, shown, isCut }, roundTrip) {
  addEntry({ time: new Date(), from, to, data: shown, isCut, type, size, roundTrip, style });
}

function logEvent(data, isFault = false) {
  const style = isFault ? 'event fault' : 'event';
  addEntry({ time: new Date(), from: '', to: '', data, isCut: false, type: 'event', size: null, roundTrip: null, style });
}

function addEntry(entry) {
  entries.push(entry);
  entriesEver += 1;
  if (entries.length >= 2 * LOG_ROWS_MAX) {
    entries = entries.slice(-LOG_ROWS_MAX);
  }
  if (unshown === 0) {
    setTimeout(() => requestAnimationFrame(showEntries), restUntil - performance.now());
  }
  unshown += 1;
}

/** Once a frame, however many messages there were: only rows that stay are made. */
function showEntries() {
  if (unshown === 0) {
    return;
  }
  const began = performance.now();
  const scroll = $('log-scroll');
  const follows = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 8;
  const rows = entries.slice(-Math.min(unshown, LOG_ROWS_MAX)).map(rowOf);
  unshown = 0;
  const log = $('log');
  log.append(...rows);
  while (log.rows.length > LOG_ROWS_MAX) {
    log.deleteRow(0);
  }
  if (follows) {
    scroll.scrollTop = scroll.scrollHeight;
  }
  $('log-note').textContent = entriesEver > LOG_ROWS_MAX
    ? `The last ${grouped(LOG_ROWS_MAX)} of ${grouped(entriesEver)} rows.`
    : `The last ${grouped(LOG_ROWS_MAX)} rows are kept.`;
  const now = performance.now();
  restUntil = now + 4 * (now - began);
}

function rowOf({ time, from, to, data, isCut, type, size, roundTrip, style }) {
  const row = document.createElement('tr');
  row.className = style;
  row.setAttribute('role', 'row');
  row.append(cell('time', clock(time, true)));
  if (type === 'event') {
    const words = cell('data', data);
    words.colSpan = 6;
    row.append(words);
    return row;
  }
  const unanswered = style === 'received' ? 'no echo' : '';
  row.append(
    cell('from', from),
    cell('to', to),
    cell('data', isCut ? data + '…' : data),
    cell('type', type),
    cell('number size', sizeInWords(size)),
    cell('number round-trip', roundTrip === null ? unanswered : millis(roundTrip)),
  );
  return row;
}

function cell(style, text) {
  const made = document.createElement('td');
  made.className = style;
  made.setAttribute('role', 'cell');
  made.textContent = text;
  return made;
}

function clearLog() {
  entries = [];
  entriesEver = 0;
  unshown = 0;
  $('log').replaceChildren();
  $('log-note').textContent = `The last ${grouped(LOG_ROWS_MAX)} rows are kept.`;
  announce('Log cleared');
}

/** The log for others to read, with names that do not change. */
function exported() {
  return entries.slice(-LOG_ROWS_MAX).map((entry) => ({
    time: entry.time.toISOString(), from: entry.from, to: entry.to, data: entry.data, data_cut: entry.isCut,
    type: entry.type, size_bytes: entry.size, round_trip_ms: entry.roundTrip,
  }));
}

function exportJson() {
  download('ringback-log.json', 'application/json', JSON.stringify(exported(), null, 2) + '\n');
}

function exportCsv() {
  const names = ['time', 'from', 'to', 'data', 'data_cut', 'type', 'size_bytes', 'round_trip_ms'];
  const lines = exported().map((entry) => names.map((name) => csvField(entry[name] ?? '')).join(','));
  download('ringback-log.csv', 'text/csv', [names.join(','), ...lines, ''].join('\r\n'));
}

/** A field of RFC 4180. What a spreadsheet would take for a formula gets a quote before it. */
function csvField(value) {
  const text = String(value);
  const harmless = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

function download(name, type, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Says something to those who do not see the log. */
function announce(words) {
  $('announcer').textContent = words;
}

// Figures in words

function clock(time, hasMillis) {
  const two = (value) => String(value).padStart(2, '0');
  const seconds = `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
  return hasMillis ? `${seconds}.${String(time.getMilliseconds()).padStart(3, '0')}` : seconds;
}

function sizeInWords(bytes) {
  if (bytes < 1024) {
    return `${bytes} B`;
  }
  return bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}

function millis(ms) {
  return `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;
}

function grouped(count) {
  return count.toLocaleString('en');
}
