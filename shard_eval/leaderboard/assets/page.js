// The board's page. Whatever comes from the board is inserted as text, never as markup.
'use strict';

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const board = read('board-data');
const { pictures, style } = read('pictures-data'); // style: Vega-Lite config per theme, and the width of a picture
const $ = (selector, root = document) => root.querySelector(selector);
const form = $('form');
const state = { table: '', part: '', q: '', theme: '', system: '' }; // as in the address
const DESCRIPTIVE = ['joint', 'harmful', 'helpfulness', 'over_refusal'];
const KINDS = { baseline: 'baseline', resampled: 'control', control: 'control', system: '' };

/** An element; attributes named on… are listeners, children are nodes or text. */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child || child === 0));
  return node;
}

/** Terms and their descriptions, without those that have none. */
function pairs(entries) {
  const told = entries.filter(([, value]) => value != null && value !== '' && value.length !== 0);
  return told.flatMap(([name, value]) => [h('dt', null, name), ...[value].flat().map((v) => h('dd', null, v))]);
}

const list = (lines) => [...lines].map((line) => h('li', null, line));
const plain = (name) => name.replaceAll('_', ' ');
const SPOKEN = { ' ↑': ', higher is better', ' ↓': ', lower is better', 'Δ ': 'difference in ', 'κ': 'kappa' };
const spoken = (title) => title.replace(/ [↑↓]|Δ |κ/g, (sign) => SPOKEN[sign]);
const checkLines = () => board.checks.map((line) => h('li', { class: /^FAIL\b/.test(line) ? 'fail' : null }, line));
const unbroken = (title) => title.replace(/ (?=[%↑↓])|(?<=Δ) /g, '\u00a0');

// ---- what the tables show: {columns: [{title, help, unit}], rows: [{system, cells: [{text, value, trace, …}]}]}

function share(value, unit) {
  if (value == null) return '–';
  return unit === '%' ? (value / 10).toFixed(1) : (value / 1000).toFixed(3);
}

const interval = (e, unit) => `[${share(e.low, unit)},\u00a0${share(e.high, unit)}]`;

/** A row's estimate, unpacked to per mille; null where there is none. Of all records, kind and value are ''. */
function estimate(table, row, kind, value, metric) {
  const k = table.parts.findIndex(([name]) => name === kind);
  const [, values, metrics] = table.parts[k] ?? ['', [], []];
  if (!values.includes(value) || !metrics.includes(metric)) return null;
  const place = values.indexOf(value) * metrics.length + metrics.indexOf(metric);
  const [packed, vector] = row[3][k];
  const basis = board.vectors[vector][place];
  if (basis < 0) return null;
  const [n, clusters, method, level] = board.bases[basis];
  const digits = packed.slice(6 * place, 6 * place + 6).match(/../g).map((two) => parseInt(two, 36));
  const [mean, low, high] = digits.map((d) => (Number.isNaN(d) ? null : d));
  return { value: mean, low, high, n, clusters, method: board.strings[method], level };
}

function traceOf(row, place) {
  const [method, folders, against, n, clusters, level, p, seed, resamples, unscored] = board.traces[place];
  const named = folders.map((folder) => board.strings[folder < 0 ? row[1] : folder]);
  const texts = { method: board.strings[method], against: board.strings[against], folders: named };
  return { ...texts, n, clusters, level, p, seed, resamples, unscored };
}

function wholeView(table) {
  const cell = (row, written) => {
    const [text, trace, value, bold, notes] = written || ['–'];
    return { text, value, bold, notes: notes ?? [], trace: trace == null ? null : traceOf(row, trace) };
  };
  const columns = table.columns.map(([, title, help, unit]) => ({ title, help, unit }));
  return { columns, rows: table.rows.map((row) => ({ system: row[0], cells: row[2].map((w) => cell(row, w)) })) };
}

function partCell(table, row, kind, value, metric) {
  const e = estimate(table, row, kind, value, metric);
  if (!e || e.value === null) return { text: '–', notes: [], trace: null };
  const [, unit] = board.metrics[metric];
  const text = `${share(e.value, unit)} ${interval(e, unit)} n ${e.n}`;
  return { text, order: e.value, notes: [], trace: { ...e, folders: [board.strings[row[1]]] } };
}

function partView(table, kind, value) {
  const [, values, metrics] = table.parts.find(([name]) => name === kind) ?? ['', [], []];
  const shown = values.includes(value) ? DESCRIPTIVE.filter((m) => metrics.includes(m)) : [];
  const help = `Mean over the records with ${plain(kind)} “${value}”. Descriptive, not tested.`;
  const columns = shown.map((m) => ({ title: board.metrics[m][0], unit: board.metrics[m][1], help }));
  const cells = (row) => shown.map((m) => partCell(table, row, kind, value, m));
  return { columns, rows: table.rows.map((row) => ({ system: row[0], cells: cells(row) })) };
}

// ---- tables

/** Numbers by size, words by the alphabet, what is missing last in both directions. */
const ordered = (sign) => (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);
  const numbers = typeof a === 'number' && typeof b === 'number';
  return sign * (numbers ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true }));
};
vendor.DataTable.ext.errMode = 'throw'; // rather than an alert
vendor.DataTable.type('traced', { order: { asc: ordered(1), desc: ordered(-1) } });

/** What a cell holds: a button for the keyboard; the mouse may hit anything but the marks of foot lines. */
function cellNode(open, label, content, ...rest) {
  const button = h('button', { type: 'button', tabindex: -1, class: 'cell', 'aria-label': label }, content);
  const clicked = ({ target }) => {
    if (target.closest('a')) return;
    button.focus(); // so that it is returned to
    open();
  };
  return h('div', { onclick: clicked }, button, ...rest);
}

function numberNode(table, row, column, cell) {
  const [main, ...rest] = cell.text.split(/ (?=\[)/); // the interval goes below
  const marks = cell.notes.map((n) => {
    return h('a', { href: `#${table.key}-note-${n}`, tabindex: -1, 'aria-label': `note ${n}` }, n);
  });
  const label = `${cell.text || '–'}${cell.bold ? ', significant' : ''}`; // the interval too, so it is not read twice
  const below = rest.length > 0 && h('small', { 'aria-hidden': 'true' }, rest.join(' '));
  return cellNode(() => openTrace(table, row.system, column, cell), label,
    h(cell.bold ? 'b' : 'span', null, main || '–'), marks.length > 0 && h('sup', null, ...marks), ' ', below);
}

function nameNode(place) {
  const { name, kind } = board.systems[place];
  const label = KINDS[kind] && h('em', null, KINDS[kind]);
  return cellNode(() => go({ system: name }), null, h('bdi', null, name), ' ', label);
}

function columnsOf(table, view) {
  const shared = { data: null, type: 'traced', searchable: false };
  const name = {
    ...shared, ariaTitle: 'system', cellType: 'th', className: 'name', createdCell: (cell) => { cell.scope = 'row'; },
    render: (row, type) => (type === 'display' ? nameNode(row.system) : board.systems[row.system].name),
  };
  const rest = view.columns.map((column, i) => {
    const numeric = view.rows.some((row) => (row.cells[i].order ?? row.cells[i].value) != null);
    const order = (cell) => (cell.order ?? cell.value ?? (numeric || cell.text === '–' ? null : cell.text));
    return {
      ...shared, ariaTitle: spoken(column.title), className: numeric ? 'number' : 'words',
      orderSequence: column.title.includes('↑') ? ['desc', 'asc', ''] : ['asc', 'desc', ''],
      render: (row, type) => (type === 'display' ? numberNode(table, row, column, row.cells[i]) : order(row.cells[i])),
    };
  });
  return [name, ...rest];
}

const live = new Map(); // key of a table → its DataTable

function startTable(node, table, view) {
  const paging = view.rows.filter((row) => board.systems[row.system].kind === 'system').length > 100;
  live.set(table.key, new vendor.DataTable(node, {
    data: view.rows, columns: columnsOf(table, view), autoWidth: false, order: [], paging, pageLength: 100,
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: paging ? 'paging' : null },
    language: { zeroRecords: 'No system of this name.' },
    createdRow: (line, row) => line.classList.add(board.systems[row.system].kind),
    // One cell of a table can be tabbed to; the arrow keys go on from there.
    drawCallback: () => $('tbody [tabindex="0"]', node) ?? $('tbody button', node)?.setAttribute('tabindex', 0),
  }));
  for (const head of node.tHead.querySelectorAll('[data-help]')) {
    $('[role=button]', head).setAttribute('aria-describedby', head.dataset.help);
  }
}

const STEPS = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -99], End: [0, 99],
};

function moveFocus(event) {
  const cell = event.target.closest('tbody th, tbody td');
  const [down, right] = STEPS[event.key] ?? [];
  if (!cell || right === undefined) return;
  event.preventDefault();
  const body = cell.closest('tbody');
  const line = body.rows[[...body.rows].indexOf(cell.parentNode) + down];
  const next = line?.cells[Math.max(0, Math.min(line.cells.length - 1, cell.cellIndex + right))];
  if (!next) return;
  body.querySelectorAll('[tabindex="0"]').forEach((other) => other.setAttribute('tabindex', -1));
  $('button', next).setAttribute('tabindex', 0);
  $('button', next).focus();
}

function tableNode(table, view) {
  const heads = view.columns.map((c, i) => {
    const named = { title: c.help, 'aria-label': spoken(c.title), 'data-help': `${table.key}-column-${i}` };
    return h('th', { scope: 'col', ...named }, unbroken(c.title));
  });
  return h('table', null, h('caption', null, `${table.title}. Every column sorts.`),
    h('thead', null, h('tr', null, h('th', { scope: 'col', 'aria-label': 'system' }, 'system'), ...heads)));
}

function sectionOf(table) {
  const [kind, value] = partOf(state.part);
  const view = kind ? partView(table, kind, value) : wholeView(table);
  const section = h('section', { id: `table-${table.key}` }, h('h2', null, table.title),
    h('p', { class: 'passport' }, table.passport || 'Nobody has measured this judge against people.'),
    kind && h('p', { class: 'notice' }, view.columns.length
      ? `Only records with ${plain(kind)} “${value}”: descriptive figures with an interval each, not tested.`
      : `This table has no records with ${plain(kind)} “${value}”.`));
  if (!view.columns.length) return section;
  const node = tableNode(table, view);
  const help = view.columns
    .flatMap((c, i) => [h('dt', null, c.title), h('dd', { id: `${table.key}-column-${i}` }, c.help)]);
  const foot = table.foot.map((line, i) => h('li', { id: `${table.key}-note-${i + 1}`, tabindex: -1 }, line));
  section.append(...[h('div', { class: view.rows.length > 30 ? 'box tall' : 'box', onkeydown: moveFocus }, node),
    h('ol', { class: 'foot' }, ...foot),
    h('details', null, h('summary', null, 'What the columns mean'), h('dl', null, ...help, ...groupsOf(table))),
    ...figuresOf(table.key)].filter(Boolean));
  startTable(node, table, view);
  return section;
}

/** The first two in sight, the others folded. */
function figuresOf(key) {
  const [first, second, ...rest] = (pictures[key] ?? []).map(([caption, spec]) => figure(caption, () => spec));
  const more = h('details', null, h('summary', null, `More pictures (${rest.length})`),
    h('div', { class: 'figures' }, ...rest));
  return [h('div', { class: 'figures' }, first, second), rest.length > 0 && more];
}

function groupsOf({ groups }) {
  if (!groups) return [];
  const [title, method, critical] = groups;
  return pairs([['Ranks and groups', `By ${title}; ${method}.`], ['Least significant difference', critical]]);
}

function drawTables() {
  live.forEach((api) => api.destroy());
  live.clear();
  $('#main').replaceChildren(...board.tables.filter((t) => !state.table || t.key === state.table).map(sectionOf));
  watchPictures();
}

function search() {
  const wanted = state.q.toLowerCase();
  const found = board.systems.map(({ name }) => name.toLowerCase().includes(wanted));
  for (const api of live.values()) api.search.fixed('name', (text, row) => found[row.system]).draw();
  const tables = `${$('#main').children.length} of ${board.tables.length} tables`;
  form.elements.count.value = `${found.filter(Boolean).length} of ${found.length} systems, ${tables}`;
}

// ---- pictures

const drawn = new Map(); // element → [what makes its specification from its width, Vega view or null]
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting && !drawn.get(target)[1]) draw(target);
}, { rootMargin: '600px', scrollMargin: '600px' });

/** One specification laid over another. */
function laid(over, under) {
  const isObject = (x) => x && typeof x === 'object' && !Array.isArray(x);
  const merged = (name) => (isObject(over[name]) && isObject(under[name]) ? laid(over[name], under[name]) : over[name]);
  return { ...under, ...Object.fromEntries(Object.keys(over).map((name) => [name, merged(name)])) };
}

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

/** As for the narrowest screen, with what this one is wider given to the panels. */
function narrowed(spec, width) {
  const small = laid(spec.usermeta?.narrow ?? {}, spec);
  const panel = small.config?.view?.continuousWidth;
  if (!panel) return small;
  return laid({ config: { view: { continuousWidth: panel + Math.max(0, width - style.narrow) } } }, small);
}

function draw(element) {
  const [make, view] = drawn.get(element);
  const caption = element.ariaLabel;
  view?.finalize();
  const width = element.clientWidth;
  const made = make(width);
  const fitting = width < style.width ? narrowed(made, width) : made;
  const { spec } = vendor.vegaLite.compile(fitting, { config: isDark() ? style.dark : style.light });
  // The syntax tree and its interpreter instead of code made up while the page runs, which the policy forbids.
  const runtime = vendor.vega.parse(spec, null, { ast: true });
  const options = { expr: vendor.expressionInterpreter, renderer: 'svg', container: element };
  drawn.set(element, [make, new vendor.vega.View(runtime, options).run()]);
  Object.assign(element, { role: 'img', ariaLabel: caption }); // which Vega has replaced by its own
}

function figure(caption, make) {
  const place = h('div', { class: 'picture', role: 'img', 'aria-label': caption });
  drawn.set(place, [make, null]);
  return h('figure', null, place, h('figcaption', null, caption));
}

/** To be drawn when they come near; those that have left the page are let go. */
function watchPictures() {
  for (const [element, [, view]] of drawn) {
    if (element.isConnected) near.observe(element);
    else view?.finalize(), near.unobserve(element), drawn.delete(element);
  }
}

const redraw = () => drawn.forEach(([, view], element) => view && draw(element));

/** Points with intervals, the system's above the baseline's. */
function breakdown(table, row) {
  const parts = table.parts.slice(1).filter(([, values]) => values.length);
  const [kind, values, metrics] = parts.find(([name]) => name === 'category') ?? parts[0] ?? [];
  const base = table.rows.find(([system]) => system === board.baseline);
  const points = (who, of) => (metrics ?? []).flatMap((m) => values.map((part) => {
    return { who, metric: board.metrics[m][0].replace(' %', ''), part, ...estimate(table, of, kind, part, m) };
  }));
  const all = [...points('this system', row), ...(base && base !== row ? points('baseline', base) : [])];
  const data = all.filter((point) => typeof point.value === 'number');
  if (!data.length) return null;
  for (const point of data) for (const name of ['value', 'low', 'high']) point[name] /= 1000;
  return figure(`By ${plain(kind)}, with ${100 * data[0].level} % intervals`, (width) => breakdownSpec(data, width));
}

function breakdownSpec(values, width) {
  const columns = width < style.width ? 1 : 2;
  const x = (field) => ({ field, type: 'quantitative', scale: { domain: [0, 1] }, title: null });
  const who = { field: 'who', scale: { domain: ['this system', 'baseline'] } };
  const tooltip = ['part', 'who', 'value', 'low', 'high', 'n'].map((field) => ({ field }));
  const encoding = { y: { field: 'part', sort: null, title: null }, yOffset: who, color: who, tooltip };
  const layer = [
    { mark: { type: 'rule', style: 'interval' }, encoding: { x: x('low'), x2: { field: 'high' } } },
    { mark: 'point', encoding: { x: x('value'), shape: who } },
  ];
  const order = [...new Set(values.map((v) => v.metric))];
  const facet = { field: 'metric', sort: order, title: null, header: { labelAnchor: 'start' } };
  const spec = { width: (width - 165) / columns - 25, height: { step: 9 }, encoding, layer };
  return { data: { values }, facet, columns, spec };
}

// ---- dialogs

function show(dialog, ...content) {
  const shut = () => dialog.close();
  const close = h('button', { type: 'button', class: 'close', 'aria-label': 'Close', onclick: shut }, '×');
  dialog.replaceChildren(close, ...content.flat().filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function openTrace(table, system, column, cell) {
  const { method, against, n, clusters, p, level, seed, resamples, unscored, folders } = cell.trace ?? {};
  show($('#trace'), h('h2', { id: 'trace-name' }, column.title, ' · ', h('bdi', null, board.systems[system].name)),
    h('p', { class: 'figure' }, cell.text), h('dl', { class: 'pairs' }, ...pairs([
      ['table', table.title], ['column', column.help], ['unit', column.unit], ['to five digits', cell.value],
      ['method', method], ['against', against], ['n', n || null], ['clusters', clusters], ['p', p], ['level', level],
      ['seed', seed], ['resamples', resamples], ['unscored', n ? unscored : null],
      ['notes', cell.notes.map((note) => table.foot[note - 1])],
      ['computed from', folders?.map((folder) => h('code', null, folder))],
    ])), !cell.trace && h('p', null, 'Nothing was computed for this cell.'));
}

function grid(caption, head, lines) {
  const line = ([first, ...rest]) => {
    return h('tr', null, h('th', { scope: 'row' }, first), ...rest.map((cell) => h('td', null, cell)));
  };
  const heads = head.map((title) => h('th', { scope: 'col' }, title));
  return h('div', { class: 'box' }, h('table', { class: 'small' }, h('caption', null, caption),
    h('thead', null, h('tr', null, ...heads)), h('tbody', null, ...lines.map(line))));
}

function claimNodes({ words, status, p, parts, reasons }) {
  const three = (x) => (typeof x === 'number' ? x.toFixed(3) : x ?? '–');
  const points = (x) => (typeof x === 'number' ? (100 * x).toFixed(1).replace(/^(?!-)/, '+') : '–');
  const claims = parts.map(([name, state, method, value, low, high, chance, margin, n, unscored, why]) => ({
    method: board.strings[method],
    reasons: why.map((text) => `${board.strings[name]}: ${text}`),
    line: [board.strings[name], board.strings[state].toLowerCase(), points(value),
      `[${points(low)},\u00a0${points(high)}]`, margin === null ? '–' : 100 * margin, three(chance), n, unscored],
  }));
  const head = ['part', 'status', 'difference', 'interval', 'margin', 'p', 'n', 'unscored'];
  const corrected = board.terms.correction === 'none' ? 'not corrected' : 'after the correction';
  const methods = [...new Set(claims.map((c) => c.method))].join('; or ');
  return [h('p', null, h('b', null, words), `: the claim is ${status.toLowerCase()}, p\u00a0${three(p)} ${corrected}.`),
    h('ul', null, ...list([...reasons, ...claims.flatMap((c) => c.reasons)])),
    claims.length > 0 && grid('Parts of the claim', head, claims.map((c) => c.line)), claims.length > 0 && h('p', { class: 'hint' },
      `Differences to the baseline in points, signed so that higher is better. Method: ${methods}.`)];
}

function measuredGrid(table, row) {
  const found = table.parts[0][2].map((m) => [m, estimate(table, row, '', '', m)]).filter(([, e]) => e);
  const lines = found.map(([m, e]) => {
    const [title, unit] = board.metrics[m];
    return [unbroken(title), share(e.value, unit), interval(e, unit), e.n, e.clusters, e.method];
  });
  return grid('All records', ['metric', 'value', 'interval', 'n', 'clusters', 'method'], lines);
}

function partGrids(table, row) {
  return table.parts.slice(1).filter(([, values]) => values.length).map(([kind, values, metrics]) => {
    const lines = values.map((value) => [value, ...metrics.map((m) => partCell(table, row, kind, value, m).text)]);
    const heads = metrics.map((m) => unbroken(board.metrics[m][0]));
    return grid(`By ${plain(kind)}: descriptive`, [plain(kind), ...heads], lines);
  });
}

const folded = (title, value) => Object.keys(value ?? {}).length > 0
  && h('details', null, h('summary', null, title), h('pre', null, JSON.stringify(value, null, 2)));

function benchmarkNodes(table, place, open) {
  const row = table.rows.find(([system]) => system === place);
  if (!row) return null;
  const cells = row[2].map((cell, i) => cell && [table.columns[i][1], cell[0]]).filter(Boolean);
  const sources = [['results', board.strings[row[1]]], ['prompts', table.content]];
  return h('details', { class: 'benchmark', open }, h('summary', null, h('h3', null, table.title)),
    h('div', { class: 'side' }, grid('On the board', ['column', 'value'], cells), measuredGrid(table, row)),
    breakdown(table, row), ...partGrids(table, row),
    h('h4', null, 'The judge'), h('p', null, table.passport || 'Nobody has measured this judge against people.'),
    folded('Agreement of the judge with people', board.passports[table.judge]?.agreement),
    h('dl', { class: 'pairs' }, ...pairs(sources.map(([name, text]) => [name, h('code', null, text)]))));
}

function openSystem(place) {
  const { name, kind, id, note, curve, training, verdict, manifest } = board.systems[place];
  const first = board.tables.find((t) => !state.table || t.key === state.table);
  const tables = board.tables.map((table) => benchmarkNodes(table, place, table === first ? '' : null));
  const label = KINDS[kind] && h('em', null, KINDS[kind]);
  show($('#system'), h('h2', { id: 'system-name' }, h('bdi', null, name), ' ', label),
    h('dl', { class: 'pairs' }, ...pairs([['identity', h('code', null, id)], ['note', note],
      ['checkpoint', curve && `step ${curve.step} of ${curve.run}`]])),
    verdict && [h('h3', null, 'Verdict'), ...claimNodes(verdict)], ...tables,
    board.checks.length > 0 && [h('h3', null, 'What the controls say'), h('ul', null, ...checkLines())],
    folded('How it was trained', training), folded('Manifest: what makes it the one it is', manifest));
  watchPictures();
}

// ---- filters, theme and address

/** "category:Fraud" → ["category", "Fraud"] */
const partOf = (text) => [text.slice(0, Math.max(0, text.indexOf(':'))), text.slice(text.indexOf(':') + 1)];

function offerParts() {
  const found = new Map();
  for (const table of board.tables.filter((t) => !state.table || t.key === state.table)) {
    for (const [kind, values] of table.parts.slice(1)) {
      found.set(kind, new Set([...(found.get(kind) ?? []), ...values]));
    }
  }
  const option = (kind) => (value) => h('option', { value: `${kind}:${value}` }, value);
  const groups = [...found].filter(([, values]) => values.size)
    .map(([kind, values]) => h('optgroup', { label: plain(kind) }, ...[...values].map(option(kind))));
  form.elements.part.replaceChildren(h('option', { value: '' }, 'all records'), ...groups);
  form.elements.part.value = state.part;
  if (form.elements.part.selectedIndex < 0) form.elements.part.value = state.part = '';
}

function setTheme(theme, also = []) {
  document.documentElement.dataset.theme = theme;
  redraw();
  also.forEach(draw);
}

function fromAddress() {
  const told = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(Object.keys(state).map((name) => [name, told.get(name) ?? '']));
}

/** A new entry of the history, marked where it opened a system, or the present one rewritten. */
function toAddress(push) {
  const address = `#${new URLSearchParams(Object.entries(state).filter(([, value]) => value))}`;
  if (push) history.pushState({ opened: state.system }, '', address);
  else history.replaceState(history.state, '', address);
}

/** The only way that what is shown changes; told is what the address says, which needs no new entry. */
function go(change, { start = false, told = false } = {}) {
  const before = { ...state };
  Object.assign(state, change);
  if (!board.tables.some((t) => t.key === state.table)) state.table = '';
  const changed = (...names) => start || names.some((name) => state[name] !== before[name]);
  if (changed('theme')) setTheme(state.theme);
  if (changed('table')) offerParts();
  if (changed('table', 'part')) drawTables();
  if (changed('table', 'part', 'q')) search();
  for (const name of ['table', 'part', 'q', 'theme']) form.elements[name].value = state[name];
  const place = board.systems.findIndex(({ name }) => name === state.system);
  if (changed('system') && place >= 0) openSystem(place);
  if (place < 0 && $('#system').open) $('#system').close();
  toAddress(!told && (changed('table', 'part') || (changed('system') && place >= 0)));
}

/** Back to where the system was opened; one that came with the address has nothing to go back to. */
function leaveSystem() {
  if (!state.system) return;
  if (history.state?.opened === state.system) history.back();
  else go({ system: '' });
}

/** A dialog returns the focus to what opened it; where nothing on the page did, the first table takes it. */
function keepFocus({ target: dialog }) {
  const at = document.activeElement;
  if (at === document.body || dialog.contains(at)) ($('main tbody [tabindex="0"]') ?? $('#main')).focus();
}

function start() {
  form.elements.table.append(...board.tables.map((t) => h('option', { value: t.key }, `${t.benchmark} · ${t.judge}`)));
  $('#terms').append(...pairs(Object.entries(board.terms).map(([name, value]) => [plain(name), String(value)])));
  const lists = [['checks', 'What the controls say', checkLines()], ['footnotes', 'Notes', list(board.footnotes)]];
  for (const [name, title, lines] of lists) {
    if (lines.length) $(`#${name}`).append(h('h3', null, title), h('ul', null, ...lines));
  }
  $('#verdicts').append(...pairs(Object.entries(board.verdicts)));
  $('#pictures').append(...figuresOf('').filter(Boolean));
  form.addEventListener('input', ({ target }) => go({ [target.name]: target.value }));
  form.addEventListener('submit', (event) => event.preventDefault());
  $('#system').addEventListener('close', leaveSystem);
  for (const dialog of document.querySelectorAll('dialog')) {
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
    dialog.addEventListener('close', keepFocus);
  }
  addEventListener('hashchange', () => go(fromAddress(), { told: true }));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  addEventListener('beforeprint', () => setTheme('light', [...drawn.keys()].filter((e) => e.clientWidth)));
  addEventListener('afterprint', () => setTheme(state.theme));
  document.addEventListener('click', followNote);
  go(fromAddress(), { start: true, told: true });
}

/** A link within the page moves there and leaves the address to what is shown. */
function followNote(event) {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  const target = document.getElementById(link.getAttribute('href').slice(1));
  target.focus();
  target.scrollIntoView({ block: 'nearest' });
}

start();
