// The rater's page. Texts come from strangers: they are only ever set as textContent. Every rating is saved before the
// page moves on; what is done twice at once (two quick keys) is done one after the other. A key or click answers only
// the item that was in view when it came: nothing may be rated that nobody has seen.
'use strict';

const $ = (id) => document.getElementById(id);
const [, token] = location.pathname.split('/');
const SIDES = ['Response A', 'Response B'];
const DOUBLE_TAP = 250; // milliseconds within which a second tap still belongs to the item before

let asked = []; // the questions
let pairs = false;
let state = { total: 0, rated: 0, skipped: 0, open: [] };
let item = null;
let active = 0; // the question that a digit answers
let veiled = false; // texts are blurred until asked for
let seen = true; // this item's were
let began = false;
let spent = 0; // milliseconds on this item since the last save, while the page is in view
let since = performance.now();
let queue = Promise.resolve();
let view = 0; // changes when another item is shown, and when what was done last has failed
let moved = -Infinity; // when the page last moved on by itself

// --- helpers ---

function make(tag, attributes, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

function act(what) {
  queue = queue.then(what).catch((error) => {
    view += 1; // what waits was done without knowing of this
    $('alert').textContent = error.message;
    $('alert').hidden = false;
  });
}

// Act on what is shown now, or not at all.
function actHere(what) {
  const here = view;
  act(() => (here === view ? what() : undefined));
}

// The second click of a double click would be on the next item.
const onceHere = (what) => (event) => event.detail > 1 || actHere(what);

function say(text) {
  $('said').textContent = '';
  $('said').textContent = text;
}

async function ask(path, said) {
  const options = said ? { method: 'POST', headers: { 'X-Token': token, 'Content-Type': 'application/json' }, body: JSON.stringify(said) } : {};
  let answer;
  try {
    answer = await fetch(path, { cache: 'no-store', ...options });
  } catch {
    throw new Error('No answer from the command in the terminal: it has stopped, and this was not saved. Start it again and open the address it prints; what was rated before is kept.');
  }
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(`${said ? 'Not saved' : 'Not found'}: ${found.error}`), { status: answer.status });
  $('alert').hidden = true;
  return found;
}

function seconds() {
  const now = performance.now();
  if (!document.hidden) spent += now - since;
  since = now;
  const found = spent / 1000;
  spent = 0;
  return found;
}

const complete = () => !item.skipped && asked.every((q) => q.axis in item.labels);
const hidden = () => veiled && !seen;

// --- what is shown ---

function drawQuestions() {
  $('questions').replaceChildren(
    ...asked.map((question, index) => {
      const options = question.options.map((option) => {
        const button = make('button', { type: 'button', class: 'option', 'aria-pressed': 'false', 'aria-keyshortcuts': option.key },
          make('kbd', { 'aria-hidden': 'true' }, option.key),
          make('div', {}, make('b', {}, option.name), make('span', {}, option.meaning)));
        button.addEventListener('click', onceHere(() => choose(index, option)));
        return button;
      });
      const letter = asked.length > 1 ? [' ', make('kbd', { 'aria-hidden': 'true' }, question.letter)] : [];
      return make('fieldset', { 'data-axis': question.axis }, make('legend', {}, question.asked, ...letter), make('div', { class: 'options' }, ...options));
    }),
  );
}

function drawHelp() {
  const digits = pairs ? '1 2 3' : '0 – 5';
  const keys = [
    [digits, pairs ? 'A is better, the same, B is better' : 'answer the question that is marked'],
    ...(asked.length > 1 ? asked.map((q) => [q.letter, `go to: ${q.asked}`]) : []),
    ['j or →', 'next'], ['k or ←', 'back'], ['u', 'undo the last rating'], ['s', 'skip, or take it back'],
    ['n', 'write a note (Esc leaves it)'], ['b', 'blur texts until Space'], ['?', 'this help'],
  ];
  $('keys').replaceChildren(...keys.map(([key, what]) => make('tr', {}, make('td', {}, make('kbd', {}, key)), make('td', {}, what))));
  $('rules').replaceChildren(...asked.flatMap((q) => [make('h3', {}, q.asked), make('p', {}, q.rules)]));
}

function textBox(text) {
  const box = make('div', { class: text.trim() ? 'text' : 'text none', dir: 'auto' });
  box.textContent = text.trim() ? text : '(empty)';
  return box;
}

function drawTexts() {
  $('request').textContent = item.request;
  const about = [['The legitimate need', item.need], ['To be held back', item.withhold]].filter(([, text]) => text);
  $('about').replaceChildren(...about.flatMap(([name, text]) => [make('dt', {}, name), make('dd', { dir: 'auto' }, text)]));
  $('responses').replaceChildren(
    ...item.responses.map((text, i) => {
      const id = `response-${i}`;
      return make('section', { 'aria-labelledby': id }, make('h2', { id }, pairs ? SIDES[i] : 'Response'), textBox(text));
    }),
  );
}

function mark() {
  [...$('questions').children].forEach((fieldset, i) => {
    fieldset.classList.toggle('active', i === active);
    const label = item.labels[asked[i].axis];
    [...fieldset.querySelectorAll('button')].forEach((button, k) => {
      button.setAttribute('aria-pressed', String(asked[i].options[k].value === label));
    });
  });
  $('skip').setAttribute('aria-pressed', String(item.skipped));
  $('work').classList.toggle('hides', hidden());
  $('texts').querySelectorAll('.text, dd').forEach((box) => box.setAttribute('aria-hidden', String(hidden())));
  $('veil').hidden = !hidden();
  $('blur').setAttribute('aria-pressed', String(veiled));
}

function count() {
  const parts = [`${state.rated} rated`, ...(state.skipped ? [`${state.skipped} skipped`] : [])];
  const place = item && !$('work').hidden ? `${item.place + 1} of ${state.total}` : `${state.total} in all`;
  $('count').textContent = `${place} · ${parts.join(' · ')}`;
  $('bar').max = state.total;
  $('bar').value = state.total - state.open.length;
  document.title = `${place} – Rate responses`;
}

async function go(place) {
  if (place === undefined) return finish();
  item = await ask(`item/${place}`);
  view += 1;
  active = Math.max(0, asked.findIndex((q) => !(q.axis in item.labels)));
  seen = false;
  spent = 0;
  since = performance.now();
  drawTexts();
  $('note').value = item.note;
  $('noted').open = item.note !== '';
  $('work').hidden = false;
  $('done').hidden = true;
  mark();
  count();
  window.scrollTo(0, 0);
  $('rating').scrollTop = 0;
  $('request-title').focus({ preventScroll: true });
  say(`${place + 1} of ${state.total}`);
}

function finish() {
  view += 1;
  $('work').hidden = true;
  $('done').hidden = false;
  $('done-count').textContent = `${state.total} of ${state.total}: ${state.rated} rated, ${state.skipped} skipped.`;
  count();
  $('done-title').focus();
}

async function goOn() {
  await go(state.open.find((place) => place > item.place) ?? state.open[0]);
  moved = performance.now();
}

// --- what a rater does ---

async function save(change) {
  const said = { ...item, ...change };
  const { place, labels, skipped, note, version } = said;
  try {
    state = await ask('rate', { place, labels, skipped, note, version, seconds: seconds() });
  } catch (error) {
    if (error.status !== 409) throw error;
    await reload();
    throw new Error('Not saved: this item was changed elsewhere, in another tab or terminal, since it was shown here. It is shown now as it is kept; look again.');
  }
  item = { ...said, version: state.version };
}

// Show an item as it is kept now. A note that could not be saved stays in its box: leaving the box saves it.
async function reload() {
  const note = $('note').value;
  const isNew = note !== item.note;
  state = await ask('state');
  await go(item.place);
  if (isNew) {
    $('note').value = note;
    $('noted').open = true;
  }
}

async function choose(index, option) {
  if (hidden()) return say('Press Space to show the text first.');
  const question = asked[index];
  const before = complete();
  await save({ labels: { ...item.labels, [question.axis]: option.value }, skipped: false });
  if (complete() && !before) return goOn();
  const left = asked.findIndex((q) => !(q.axis in item.labels));
  turnTo(left < 0 ? index : left);
  count();
  say(`${question.asked} ${option.name}`);
}

async function skip() {
  const skipped = !item.skipped;
  await save({ skipped, labels: {} });
  if (skipped) return goOn();
  active = 0;
  mark();
  count();
  say('Not skipped any more.');
}

async function undo() {
  const found = await ask('undo', {});
  state = found;
  if (found.place === null) return say('Nothing to undo.');
  await go(found.place);
  say(`Taken back: ${found.place + 1} of ${state.total}`);
}

async function move(step) {
  if (!$('done').hidden) return step < 0 ? go(item ? item.place : state.total - 1) : undefined;
  const place = item.place + step;
  if (place < 0) return say('This is the first.');
  return go(place < state.total ? place : state.open[0]);
}

async function keepNote() {
  if (item && $('note').value !== item.note) {
    await save({ note: $('note').value });
    count();
    say('Note saved.');
  }
}

function turnTo(index) {
  active = index;
  mark();
  $('questions').children[index].scrollIntoView({ block: 'nearest' });
  say(asked[index].asked);
}

function openNote() {
  $('noted').open = true;
  $('note').focus();
}

function blur() {
  veiled = !veiled;
  seen = false;
  mark();
}

function reveal() {
  seen = true;
  mark();
  $('request-title').focus({ preventScroll: true });
}

function begin() {
  veiled = $('blurred').checked;
  began = true;
  act(() => go(state.open[0]));
}

const KEYS = {
  j: () => act(() => move(1)), ArrowRight: () => act(() => move(1)),
  k: () => act(() => move(-1)), ArrowLeft: () => act(() => move(-1)),
  u: () => actHere(undo), s: () => actHere(skip), n: () => act(openNote), b: () => act(blur), '?': () => $('help').showModal(),
};

// A key that is held, or the second tap of the one that finished the item before.
function isSlip(event) {
  const rates = /^[\dsu]$/i.test(event.key);
  return rates && (event.repeat || (event.key !== 'u' && performance.now() - moved < DOUBLE_TAP));
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !began) return;
  if ($('help').open) return;
  if (event.target === $('note')) {
    if (event.key === 'Escape') $('note').blur();
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const working = !$('work').hidden;
  const letter = asked.findIndex((q) => q.letter === key);
  if (isSlip(event)) return;
  if (key === ' ' && working && hidden()) reveal();
  else if (working && /^\d$/.test(key)) {
    actHere(() => {
      const option = asked[active].options.find((o) => o.key === key);
      return option ? choose(active, option) : say(`${key} is no answer to: ${asked[active].asked}`);
    });
  } else if (working && asked.length > 1 && letter >= 0) {
    actHere(() => turnTo(letter));
  } else if (key in KEYS && (working || ['k', 'ArrowLeft', 'u', '?'].includes(key))) KEYS[key]();
  else return;
  event.preventDefault();
}

async function start() {
  const found = await ask('state');
  ({ questions: asked, pairs } = found);
  state = found;
  $('work').classList.toggle('pairs', pairs);
  const what = pairs ? 'pairs of responses to the same request, side by side,' : 'responses, each with the request it answers,';
  const left = state.open.length;
  const far = left === state.total ? '' : left ? ` ${state.total - left} are done; you go on where you stopped.` : ' All are done; you may change them.';
  $('task').textContent = `You rate ${state.total} ${what} in random order. Which system wrote them is hidden.${far}`;
  drawQuestions();
  drawHelp();
  count();
  $('intro').showModal();
}

document.addEventListener('keydown', pressed);
document.addEventListener('visibilitychange', () => {
  if (document.hidden) spent += performance.now() - since;
  since = performance.now();
});
$('start').addEventListener('click', () => $('intro').close());
$('intro').addEventListener('close', begin);
$('note').addEventListener('blur', () => act(keepNote));
$('next').addEventListener('click', KEYS.j);
$('previous').addEventListener('click', KEYS.k);
$('again').addEventListener('click', KEYS.k);
$('skip').addEventListener('click', onceHere(skip));
$('undo').addEventListener('click', KEYS.u);
$('blur').addEventListener('click', () => item && blur());
$('reveal').addEventListener('click', reveal);
$('ask-help').addEventListener('click', KEYS['?']);
$('close-help').addEventListener('click', () => $('help').close());
act(start);
