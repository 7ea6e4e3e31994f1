// The lesson beside every room. Words come from lesson files, which may be anyone's: every one is set as textContent.
const box = element.querySelector('.lesson'), page = document.querySelector('.gradio-container');
const make = (tag, cls, text) => { const node = document.createElement(tag); if (cls) node.className = cls; if (text != null) node.textContent = text; return node; };
const put = (parent, ...nodes) => { parent.append(...nodes.filter(Boolean)); return parent; };
const button = (text, act, cls) => { const node = make('button', cls || '', text); node.type = 'button'; node.onclick = act; return node; };
let at = null, parts = {}, shut = localStorage.getItem('prunarium_lesson_shut') === 'yes';
const here = () => ({ lesson: at.lesson, step: at.step });
const go = (step, push = true) => { if (push) history.pushState(history.state, '', link(step)); busy(); trigger('went', { lesson: at.lesson, step }); };
const busy = () => { box.dataset.busy = ''; };

function link(step) {
  const url = new URL(location);
  url.searchParams.delete('token');
  if (step) { url.searchParams.set('lesson', at.lesson); url.searchParams.set('step', step); }
  else { url.searchParams.delete('lesson'); url.searchParams.delete('step'); }
  return url;
}

const spans = (parent, list) => put(parent, ...list.map(([tag, text]) => tag ? make(tag === 'b' ? 'strong' : tag === 'i' ? 'em' : 'code', '', text) : document.createTextNode(text)));
const words = block => block.kind === 'ul' ? put(make('ul'), ...block.items.map(item => spans(make('li'), item))) : spans(make('p'), block.spans);

function head() {
  const bar = make('div', 'lesson-head'), done = at.checked.filter(n => at.done.includes(n)).length;
  parts.fold = button('', () => { shut = !shut; localStorage.setItem('prunarium_lesson_shut', shut ? 'yes' : 'no'); fold(); }, 'lesson-fold');
  const count = make('span', 'lesson-count', `${at.step} of ${at.titles.length}`), leave = button('×', away, 'lesson-leave');
  leave.setAttribute('aria-label', 'Leave the lesson'); leave.title = 'Leave the lesson; what you did is kept';
  count.title = `${done} of ${at.checked.length} tasks done`;
  return put(bar, put(make('div', 'lesson-name'), make('b', '', at.title), count), parts.fold, leave);
}

function away() { history.pushState(history.state, '', link(0)); busy(); trigger('left', {}); }

function dots() {
  const row = make('div', 'lesson-dots'); row.setAttribute('role', 'group'); row.setAttribute('aria-label', 'Steps');
  at.titles.forEach((title, i) => {
    const n = i + 1, dot = button('', () => n !== at.step && go(n)), done = at.done.includes(n);
    dot.setAttribute('aria-label', `Step ${n}: ${title}${done ? ', done' : ''}`); dot.title = `${n}. ${title}`;
    if (n === at.step) dot.setAttribute('aria-current', 'step');
    dot.classList.toggle('done', done); row.append(dot);
  });
  return row;
}

function question() {
  if (!at.ask) return null;
  const form = make('form', 'lesson-ask'), send = text => { busy(); trigger('answered', { ...here(), text }); };
  form.onsubmit = event => { event.preventDefault(); if (parts.field) send(parts.field.value); };
  if (at.ask.options.length) {
    const group = make('fieldset'), chosen = text => { for (const other of group.querySelectorAll('button')) other.setAttribute('aria-pressed', other.textContent === text); };
    put(group, make('legend', '', at.ask.question));
    for (const option of at.ask.options) { const node = button(option, () => { chosen(option); send(option); }); group.append(node); }
    chosen(at.answer); return put(form, group);
  }
  const label = make('label', '', at.ask.question), line = make('span', 'lesson-line');
  parts.field = make('input'); parts.field.type = 'text'; parts.field.inputMode = 'decimal'; parts.field.autocomplete = 'off'; parts.field.maxLength = 60; parts.field.value = at.answer;
  const check = make('button', 'main', 'Check'); check.type = 'submit';
  return put(form, put(label, put(line, parts.field, at.ask.unit ? make('i', '', at.ask.unit) : null, check)));
}

function offers() {
  const row = make('div', 'lesson-offers'), act = what => () => { busy(); trigger('acted', { ...here(), what }); };
  if (at.model) put(row, make('p', 'lesson-model', at.model[0]), button(`Open ${at.model[1]}`, act('model'), 'main'));
  if (at.recipe) { const run = button('Run it', act('recipe'), 'main'); run.title = at.recipe; put(row, make('p', 'lesson-plan', at.recipe), run); }
  if (at.budget) put(row, button('Set the bars for me', act('budget')));
  if (at.room && at.room[0] !== 'learn') put(row, button(`Show ${at.room[1]}`, act('room')));
  return row;
}

function verdict() {
  parts.said.replaceChildren(); parts.said.className = 'lesson-said'; parts.said.dataset.state = at.state || '';
  const text = at.problem || at.said;
  const asked = at.ask || at.budget; // what a step only waits for is no answer that fell short
  if (at.problem) parts.said.dataset.state = 'problem';
  else if (at.state === 'not_yet' && !asked) parts.said.dataset.state = 'to_do';
  if (text) put(parts.said, make('b', '', at.problem ? 'Not done' : at.state === 'right' ? 'Right' : asked ? 'Not yet' : 'To do'), make('span', '', text));
  parts.told.textContent = at.told || '';
}

function hint() {
  if (!at.hint.length) return null;
  const fold = make('details', 'lesson-hint'); return put(fold, make('summary', '', 'Hint'), ...at.hint.map(words));
}

function paper() {
  if (!at.paper) return null;
  return put(make('div', 'lesson-paper'), make('h4', '', 'The paper'), make('p', 'title', at.paper.title), make('p', '', [at.paper.by, at.paper.where].filter(Boolean).join(' · ')));
}

function way() {
  const row = make('div', 'lesson-way'), last = at.step === at.titles.length, back = button('Back', () => go(at.step - 1));
  back.disabled = at.step === 1;
  parts.next = button(last ? 'Finish' : 'Next', () => last ? away() : go(at.step + 1));
  return put(row, back, parts.next);
}

function build() {
  parts = { said: make('div'), told: make('p', 'lesson-told') };
  parts.said.setAttribute('role', 'status');
  const title = make('h3', '', at.heading); title.tabIndex = -1;
  const body = put(make('div', 'lesson-body'), title, ...at.blocks.map(words), question(), offers(), parts.said, parts.told, hint(), paper());
  box.replaceChildren(head(), dots(), body, way());
  body.tabIndex = 0; body.setAttribute('role', 'region'); body.setAttribute('aria-label', 'The step');
}

function fold() {
  box.classList.toggle('shut', shut); parts.fold.textContent = shut ? 'Show' : 'Hide'; parts.fold.setAttribute('aria-expanded', !shut);
  room(!shut);
}

// The rooms give way to the panel: at the side, or on small screens at the foot. Not in the style sheet: Gradio rewrites rules for its own frame inside @media.
const wide = matchMedia('(min-width: 1024px)');
let taken = false;
function room(open) {
  taken = open;
  page.style.setProperty('padding-right', open && wide.matches ? '348px' : '0', 'important');
  page.style.setProperty('padding-bottom', open && !wide.matches ? '48vh' : '0', 'important');
}
wide.addEventListener('change', () => room(taken));

function broken(value) {
  parts = { fold: button('', () => {}) };
  const close = button('Close', () => { at = { lesson: '' }; away(); }, 'main');
  box.replaceChildren(put(make('div', 'lesson-body'), make('h3', '', value.wrong), make('p', '', value.broken), close));
}

// Only what changed is drawn anew: a check that runs by itself must not take the half-typed answer away.
const SHAPE = ['lesson', 'step', 'blocks', 'ask', 'recipe', 'budget', 'model', 'room', 'titles', 'hint'];
let missed = false;
function show() {
  const value = props.value;
  // A check that ran by itself may have begun before a hand turned the page: it never turns it back, and looks once more when the hand is answered.
  if (value && value.again && at && ('busy' in box.dataset || value.lesson !== at.lesson || value.step !== at.step)) { missed = true; return; }
  delete box.dataset.busy;
  if (missed) { missed = false; trigger('looked', {}); }
  if (value && value.same) {
    if (!at || value.same[0] !== at.lesson || value.same[1] !== at.step) return;
    at = { ...at, problem: value.problem }; verdict(); box.dataset.rev = Number(box.dataset.rev || 0) + 1; return;
  }
  box.hidden = !value || !value.open;
  if (box.hidden) { at = null; room(false); box.dataset.rev = Number(box.dataset.rev || 0) + 1; return; }
  if (value.broken) { at = null; broken(value); room(true); return; }
  const fresh = !at || SHAPE.some(key => JSON.stringify(at[key]) !== JSON.stringify(value[key])), moved = at && (at.lesson !== value.lesson || at.step !== value.step);
  if (value.told === null) value.told = !moved && at ? at.told : ''; // a check that ran by itself says nothing new
  const typed = !moved && parts.field ? parts.field.value : null;
  const before = at && !moved ? at.state + at.said : null;
  at = value;
  if (fresh) build(); else { box.replaceChild(head(), box.firstChild); box.replaceChild(dots(), box.children[1]); }
  if (typed && parts.field) parts.field.value = typed;
  verdict(); fold(); parts.next.classList.toggle('main', at.state === 'right' || !at.checked.includes(at.step));
  box.dataset.step = at.step; box.dataset.state = at.state || '';
  if (link(at.step).href !== location.href) history.replaceState(history.state, '', link(at.step));
  if (moved) { box.querySelector('.lesson-body').scrollTop = 0; if (!shut) box.querySelector('h3').focus({ preventScroll: true }); }
  else if (before !== null && before !== at.state + at.said && at.said) parts.said.scrollIntoView({ block: 'nearest' });
  box.dataset.rev = Number(box.dataset.rev || 0) + 1;
}
addEventListener('popstate', () => {
  const asked = new URL(location).searchParams, lesson = asked.get('lesson');
  if (lesson) { busy(); trigger('went', { lesson, step: asked.get('step') || 1 }); }
  else if (at) { busy(); trigger('left', {}); }
});
// Of several quick changes of the bars a signal may tell an older one last, so the panel looks once more when the equaliser has saved.
let pause = 0;
new MutationObserver(list => {
  if (!at || !list.some(change => change.target.classList.contains('eq'))) return;
  clearTimeout(pause); pause = setTimeout(() => at && trigger('looked', {}), 300);
}).observe(document.body, { subtree: true, attributes: true, attributeFilter: ['data-rev'] });
addEventListener('prunarium-lesson', event => { busy(); trigger('went', event.detail); });
watch('value', show); show();
