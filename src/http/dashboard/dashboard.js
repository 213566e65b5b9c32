// Keeps the page up to date: the status once a second, alerts as they are committed. What it shows is formed like in
// `page/view.rs`. Everything that comes from outside is written as text, never as markup.
"use strict";

const ALERTS_SHOWN = 50;
const POLL_MS = 1000;

const byId = (id) => document.getElementById(id);
const grouped = (number) => number.toLocaleString("en-US");
const known = (value) => (value === null ? "unknown" : String(value));
const time = (ms) => (ms === null ? "none yet" : new Date(ms).toISOString());
const timeOfDay = (ms) => new Date(ms).toISOString().slice(11, 19) + " UTC";

// A text that did not change is not touched, so that a selection in it stays.
function write(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

function age(ms) {
  const seconds = Math.floor(Math.max(0, ms) / 1000);
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

function length(ms) {
  if (ms < 10000) return `${grouped(ms)} ms`;
  if (ms < 120000) return `${Math.floor(ms / 1000)} s`;
  if (ms < 7200000) return `${Math.floor(ms / 60000)} min`;
  if (ms < 172800000) return `${Math.floor(ms / 3600000)} h`;
  return `${grouped(Math.floor(ms / 86400000))} days`;
}

// Makes the rows of a table what they should be, cell by cell. A row is a list of cells: [text, class, is a header].
function writeRows(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, at) => {
    const row = body.rows[at] || body.insertRow();
    cells.forEach(([text, className = "", header = false], index) => {
      let cell = row.cells[index];
      if (!cell) {
        cell = document.createElement(header ? "th" : "td");
        if (header) cell.scope = "row";
        row.append(cell);
      }
      if (cell.textContent !== text) cell.textContent = text;
      if (cell.className !== className) cell.className = className;
    });
  });
}

function phase(one) {
  if (one.phase === "recovering" && one.waiting_for) return `recovering: ${one.waiting_for}`;
  if (one.phase === "refused") return `refused. What to do: ${one.remedy}`;
  return one.phase;
}

function showGuarantee(status) {
  byId("guarantee").className = status.guarantee.state;
  write("headline", status.guarantee.headline);
  write("what-to-do", status.guarantee.what_to_do || "");
  write("state", status.state);
  write("ready", status.ready ? "ready" : "not ready");
  byId("ready").className = status.ready ? "yes" : "no";
  const sentences = status.reasons.concat(status.remarks);
  const list = byId("reasons");
  while (list.children.length > sentences.length) list.lastElementChild.remove();
  sentences.forEach((sentence, at) => {
    const item = list.children[at] || list.appendChild(document.createElement("li"));
    if (item.textContent !== sentence) item.textContent = sentence;
  });
}

function tile(id, value, note) {
  write(id, value);
  write(`${id}-note`, note);
}

function showTiles(status) {
  const { recent, statistics, checkpoints } = status;
  tile("throughput", `${grouped(recent.records_per_second)}/s`, "records over ten seconds");
  if (recent.alert_latency_p50_ms === null) {
    tile("latency", "–", "no alert in the last minute");
  } else {
    const note = `median of ${recent.alerts}; 99% within ${length(recent.alert_latency_p99_ms)}`;
    tile("latency", length(recent.alert_latency_p50_ms), note);
  }
  const lags = status.partitions.map((one) => one.lag_records);
  const lag = lags.length === 0 ? "–" : lags.includes(null) ? "unknown" : grouped(lags.reduce((sum, one) => sum + one, 0));
  tile("lag", lag, "records not taken in yet");
  tile("alert-count", grouped(status.totals.alerts), "committed since the start");
  const success = checkpoints.last_success_at_ms;
  const value = success === null ? "none yet" : age(status.instance.reported_at_ms - success);
  let note = "shortens the next start";
  if (checkpoints.consecutive_failures > 0) note = `failed ${checkpoints.consecutive_failures} times since`;
  else if (checkpoints.last_bytes !== null && checkpoints.last_duration_ms !== null)
    note = `${grouped(Math.ceil(checkpoints.last_bytes / 1000))} kB in ${grouped(checkpoints.last_duration_ms)} ms`;
  tile("checkpoint", value, note);
  const rows = `${grouped(statistics.pending_rows)} rows wait`;
  if (!statistics.enabled) tile("statistics", "off", "stats.enabled = false");
  else if (statistics.connected) tile("statistics", "connected", rows);
  else tile("statistics", "database away", `alerts go on; ${rows}`);
}

function showPartitions(partitions) {
  byId("no-partitions").hidden = partitions.length > 0;
  const rows = partitions.map((one) => [
    [String(one.partition)],
    [phase(one), one.phase],
    [one.lag_records === null ? "unknown" : grouped(one.lag_records), "number"],
    [known(one.committed_offset), "number"],
    [known(one.end_offset), "number wider"],
    [grouped(one.open_users), "number"],
    [one.watermark ? one.watermark.slice(0, 19).replace("T", " ") : "none", "wide time"],
  ]);
  writeRows(byId("partitions"), rows);
}

function showWork(status) {
  const { totals, commits } = status;
  const last = commits.last;
  const rows = [
    ["records", `${grouped(totals.counted)} counted, ${grouped(totals.duplicate)} duplicate, ${grouped(totals.late)} late, ${grouped(totals.dead_letter)} dead letters`],
    ["transactions", `${grouped(totals.transactions_committed)} committed, ${grouped(totals.transactions_aborted)} aborted; producers used: ${grouped(totals.producer_replacements)}`],
    ["last commit", last ? `${time(last.at_ms)}, in ${last.duration_ms} ms` : "none yet"],
    ["last statistics", time(status.statistics.last_flush_at_ms)],
    ["last checkpoint", time(status.checkpoints.last_success_at_ms)],
  ];
  const errors = [
    ["last commit error", commits.last_error],
    ["last log error", status.kafka.last_error],
    ["last statistics error", status.statistics.last_error],
    ["last checkpoint error", status.checkpoints.last_error],
  ];
  for (const [name, error] of errors) if (error) rows.push([name, `${time(error.at_ms)}: ${error.message}`]);
  writeRows(byId("work"), rows.map(([name, value]) => [[name, "", true], [value]]));
}

function show(status) {
  document.title = `Tallyguard ${status.instance.id}: ${status.state}`;
  showGuarantee(status);
  showTiles(status);
  showPartitions(status.partitions);
  showWork(status);
}

let answeredAt = Date.now();

async function poll() {
  try {
    const answer = await fetch("/api/v1/status", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(String(answer.status));
    const status = await answer.json();
    show(status);
    answeredAt = Date.now();
    write("updated", `as of ${timeOfDay(status.instance.reported_at_ms)}`);
    document.body.classList.remove("stale");
  } catch (error) {
    // What is on the page is old, and must not look as if it were true still.
    write("updated", `no answer from the service for ${Math.floor((Date.now() - answeredAt) / 1000)} s: all below is old`);
    document.body.classList.add("stale");
  }
  setTimeout(poll, POLL_MS);
}

// Newest first; each once, whether it came by the list or by the stream.
const alerts = new Map();
let drawsAgain = null;
let drawnAt = 0;

// Drawn at once, but at most four times a second, however fast they come.
function take(items) {
  for (const item of items) alerts.set(`${item.partition}-${item.offset}`, item);
  drawsAgain ??= setTimeout(drawAlerts, Math.max(0, drawnAt + 250 - Date.now()));
}

function drawAlerts() {
  drawsAgain = null;
  drawnAt = Date.now();
  const newest = [...alerts.entries()].sort(([, a], [, b]) => (a.detected_at < b.detected_at ? 1 : a.detected_at > b.detected_at ? -1 : b.partition - a.partition || b.offset - a.offset));
  for (const [id] of newest.slice(ALERTS_SHOWN)) alerts.delete(id);
  const list = byId("alerts");
  list.replaceChildren(...newest.slice(0, ALERTS_SHOWN).map(([, item]) => alertLine(item)));
}

function span(className, text) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  return element;
}

const SEVERITIES = ["low", "medium", "high", "critical"];

function alertLine({ detected_at, alert }) {
  const line = document.createElement("li");
  const severity = String(alert.severity);
  const at = span("at", `${detected_at.slice(11, 19)}`);
  at.title = detected_at;
  const chip = span(SEVERITIES.includes(severity) ? `severity ${severity}` : "severity", severity);
  const text = span("text", `User ${alert.user_id}: ${alert.reason}`);
  const rule = span("rule", `${alert.rule_id}, window from ${String(alert.window_start).slice(11, 16)}`);
  line.append(at, chip, text, rule);
  return line;
}

async function loadAlerts() {
  const answer = await fetch("/api/v1/alerts?limit=" + ALERTS_SHOWN);
  if (!answer.ok) throw new Error((await answer.json()).message);
  const list = await answer.json();
  take(list.alerts);
  write("alerts-state", list.trouble ? `not up to date: ${list.trouble}` : list.alerts.length ? "live" : "live; none so far");
}

// The stream is opened first, so that nothing falls between it and the list.
function follow() {
  const stream = new EventSource("/api/v1/alerts/stream");
  stream.onopen = () => loadAlerts().catch((error) => write("alerts-state", `not readable: ${error.message}`));
  stream.addEventListener("alert", (event) => {
    take([JSON.parse(event.data)]);
    write("alerts-state", "live");
  });
  stream.addEventListener("lagged", (event) => {
    const { missed } = JSON.parse(event.data);
    write("alerts-state", missed === null ? "live; some older ones are not shown" : `live; ${missed} were too fast to show`);
  });
  stream.onerror = () => {
    write("alerts-state", "not connected, trying again");
    // After an answer other than 200 the browser does not try again by itself.
    if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  };
}

poll();
follow();
