// The admin page: asks /state.json every two seconds and shows it. Everything is set as text, never as markup.
'use strict';

const PAUSE_MS = 2000;
const KEPT = 60; // readings in a chart
const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat('en');
let token = sessionStorage.getItem('token');
let last = null;

const rates = [
  { name: 'Batches in', unit: '/s', of: (t) => t.stored_batches, kept: [] },
  { name: 'Bytes in', unit: 'B/s', of: (t) => t.stored_bytes, kept: [] },
  { name: 'Bytes out', unit: 'B/s', of: (t) => t.given_bytes, kept: [] },
  { name: 'Calls refused', unit: '/s', of: (t) => t.refused, kept: [] },
];

function bytes(n) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];
  let at = 0;
  while (n >= 1000 && at < units.length - 1) {
    n /= 1000;
    at++;
  }
  return `${at === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[at]}`;
}

function ago(ms, now) {
  const s = Math.max(0, Math.round((now - ms) / 1000));
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`;
}

function make(tag, text, className) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (className) e.className = className;
  return e;
}

function row(...cells) {
  const tr = make('tr');
  tr.append(...cells);
  return tr;
}

function showFigures(s) {
  const figures = [
    ['Started', ago(s.began_ms, s.now_ms)],
    ['Connections', number.format(s.connections)],
    ['Calls', number.format(s.calls)],
    ['Watchers', number.format(s.watchers)],
    ['Workspaces', number.format(s.workspace_count)],
    ['Log entries', number.format(s.log_entries)],
    ['Ciphertext', bytes(s.stored_bytes)],
    ['Commits', number.format(s.totals.commits)],
    ['Memory', bytes(s.process.resident_bytes)],
    ['CPU time', `${(s.process.cpu_ms / 1000).toFixed(1)} s`],
    ['Open files', number.format(s.process.open_files)],
    ['Store', s.store],
  ];
  $('figures').replaceChildren(...figures.map(([name, value]) => {
    const box = make('div');
    box.append(make('dt', name), make('dd', value));
    return box;
  }));
}

function chart(rate) {
  const space = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(space, 'svg');
  const line = document.createElementNS(space, 'polyline');
  const top = Math.max(1, ...rate.kept);
  const now = rate.kept.at(-1) ?? 0;
  const text = rate.unit === 'B/s' ? `${bytes(now)}/s` : `${number.format(Math.round(now * 10) / 10)} ${rate.unit}`;
  svg.setAttribute('viewBox', `0 0 ${KEPT - 1} 100`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `${rate.name} over the last ${Math.round(KEPT * PAUSE_MS / 60000)} minutes, now ${text}`);
  line.setAttribute('points', rate.kept.map((v, i) => `${KEPT - rate.kept.length + i},${98 - 96 * v / top}`).join(' '));
  svg.append(line);
  const figure = make('figure');
  const caption = make('figcaption', rate.name);
  caption.append(make('b', text));
  figure.append(caption, svg);
  return figure;
}

function showThroughput(s) {
  const seconds = last && last.began_ms === s.began_ms ? (s.now_ms - last.now_ms) / 1000 : 0;
  for (const rate of rates) {
    if (seconds > 0) rate.kept.push(Math.max(0, rate.of(s.totals) - rate.of(last.totals)) / seconds);
    rate.kept = rate.kept.slice(-KEPT);
  }
  $('charts').replaceChildren(...rates.map(chart));
}

function device(d, s) {
  const li = make('li');
  const behind = d.pulled < 0 ? 'has pulled nothing yet' : d.lag === 0 ? 'up to date' : `${number.format(d.lag)} behind`;
  li.append(make('span', d.id, 'id'), ` ${ago(d.seen_ms, s.now_ms)}, `, make('span', behind, d.lag > 0 ? 'late' : ''));
  return li;
}

function workspace(w, s) {
  const devices = make('ul');
  devices.append(...w.devices.map((d) => device(d, s)));
  const cell = make('td');
  cell.append(devices);
  return row(make('td', w.id, 'id'), make('td', number.format(w.number), 'n'), make('td', bytes(w.bytes), 'n'),
    make('td', w.epoch, 'n'), cell);
}

function show(s) {
  $('state').textContent = `${s.stopping ? 'stopping' : s.store_up ? 'serving' : 'the store cannot be read'} · version ${s.version}`;
  $('state').className = s.stopping || !s.store_up ? 'bad' : '';
  showFigures(s);
  showThroughput(s);
  const shown = s.workspaces.length;
  $('count').textContent = shown < s.workspace_count ? `the first ${number.format(shown)} of ${number.format(s.workspace_count)}` : '';
  $('workspaces').replaceChildren(...s.workspaces.map((w) => workspace(w, s)));
  $('refused').replaceChildren(...s.refusals.map((r) => row(make('td', ago(r.at_ms, s.now_ms)), make('td', r.method),
    make('td', r.code), make('td', r.kind))));
  last = s;
}

async function round() {
  try {
    const answer = await fetch('state.json', { headers: token ? { Authorization: `Bearer ${token}` } : {} });
    $('ask').hidden = answer.status !== 401;
    if (answer.ok) show(await answer.json());
    else throw new Error(answer.status === 401 ? 'this hub asks for a token' : (await answer.text()).trim());
  } catch (e) {
    $('state').textContent = e instanceof TypeError ? 'the hub does not answer' : e.message;
    $('state').className = 'bad';
  }
  setTimeout(round, PAUSE_MS);
}

$('ask').addEventListener('submit', (e) => {
  e.preventDefault();
  token = $('token').value;
  sessionStorage.setItem('token', token);
});
round();
