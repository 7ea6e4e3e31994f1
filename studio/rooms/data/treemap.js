// The treemap: rectangles laid out by the worker (core/serve_tree.py), drawn here. Texts go through textContent; a picture is only ever a data: URI of a PNG.
const host = element.querySelector('.tm');
if (element.parentElement) element.parentElement.style.padding = '0';
const made = (tag, cls, text) => { const node = document.createElement(tag); if (cls) node.className = cls; if (text != null) node.textContent = text; return node; };
const put = (parent, ...nodes) => { parent.append(...nodes.filter(node => node != null)); return parent; };
const press = (text, act, label, cls) => { const node = made('button', cls, text); node.type = 'button'; node.onclick = act; if (label) { node.title = label; node.setAttribute('aria-label', label); } return node; };
const thousands = n => Math.round(n).toLocaleString('en-US');
const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.095 ? 1 : 0)} %`;
const many = n => `${thousands(n)} ${n === 1 ? 'row' : 'rows'}`;
const drawing = uri => { if (typeof uri !== 'string' || !uri.startsWith('data:image/png;base64,')) return null; const image = made('img'); image.src = uri; image.alt = ''; image.width = image.height = 28; return image; };
const MEANS = { label: 'Class', error: 'Error', score: 'Score', kept: 'Stays' };
const KEYS = [['Enter', 'zoom in'], ['Backspace', 'back'], ['C', 'compare with its sibling'], ['← → ↑ ↓', 'next cluster']];

let node = null, count = 12, colour = 'label', told = null, size = 0, busy = false, again = false, near = false, key = '', rowsOf = '', pairOf = null;
const ui = {};

function build() {
  host.replaceChildren();
  for (const name in ui) delete ui[name];
  if (!props.value) return;
  ui.title = made('h3'); ui.note = made('p');
  ui.path = made('nav', 'tm-path'); ui.path.setAttribute('aria-label', 'Where in the tree');
  ui.map = made('div', 'tm-map'); ui.map.addEventListener('keydown', keyed);
  ui.legend = made('div', 'tm-legend'); ui.pair = made('section', 'tm-pair'); ui.pair.hidden = true;
  ui.twin = made('details', 'tm-twin');
  put(host, put(made('header'), ui.title, ui.note), tools(), ui.path, ui.map, ui.legend, help(), ui.pair, ui.twin);
  say('The tree of clusters', 'Drawn when it comes into view.');
}

function tools() {
  const line = made('div', 'tm-tools'), label = made('label', '', 'Visible clusters'), slider = made('input'), number = made('output', '', count);
  Object.assign(slider, { type: 'range', min: 2, max: 60, value: count }); slider.className = 'tm-count';
  slider.oninput = () => { count = Number(slider.value); number.textContent = count; ask(); };
  const pick = made('select', 'tm-colour'), named = made('label', '', 'Colour');
  for (const way in MEANS) if (props.value.names.length || (way !== 'label' && way !== 'error')) { const option = made('option', '', MEANS[way]); option.value = way; pick.append(option); }
  if (!props.value.names.length && (colour === 'label' || colour === 'error')) colour = 'score';
  pick.value = colour; pick.onchange = () => { colour = pick.value; ask(); };
  ui.slider = slider; ui.number = number;
  ui.use = press('Use as the map’s clusters', () => trigger('submit', { count: told.cells.length })); ui.use.title = 'Count, colour and set quotas by the visible clusters'; ui.use.className = 'tm-use';
  ui.use.hidden = true;
  return put(line, put(label, slider, number), put(named, pick), ui.use);
}

function help() {
  const line = made('div', 'tm-help');
  for (const [name, text] of KEYS) put(line, put(made('span'), made('kbd', '', name), document.createTextNode(text)));
  return line;
}

function say(title, note, badge) {
  ui.title.textContent = title; ui.note.textContent = note;
  if (badge) ui.title.append(made('span', `badge badge-${badge}`, badge));
}

// ---- asking: one question at a time, always the newest wish

async function ask() {
  if (!props.value || !near || !host.offsetWidth) return;
  if (busy) { again = true; return; }
  busy = true; host.dataset.busy = '';
  if (!told) say('The tree of clusters is grown', 'Once for these rows; seconds.');
  size = ui.map.clientWidth;
  const wish = { choice: props.value.choice, keep: props.value.keep, node, count, width: size, height: ui.map.clientHeight, colour }, mine = rowsOf;
  try {
    const found = await server.look(wish);
    if (mine === rowsOf) take(found);
  } catch (error) { if (mine === rowsOf) say('The studio does not answer', 'Reload the page.'); }
  busy = false; delete host.dataset.busy;
  if (again) { again = false; ask(); }
}

function take(found) {
  if (found.problem) return say('No treemap', found.problem);
  if (!found.ready) return say('Not known yet', `This colour takes some ${Math.round(found.seconds)} s to work out. Make the selection as a run, or choose another colour.`, 'not');
  const focused = ui.map.contains(document.activeElement);
  told = found; node = found.node;
  ui.slider.max = Math.max(found.most, 2); ui.slider.disabled = found.most < 2;
  ui.use.hidden = !(found.direct && found.path.length === 1);
  finding(); path(); legend(); cells(); twin();
  if (focused) { const first = ui.map.querySelector('.tm-zoom'); if (first) first.focus(); }
  host.dataset.rev = Number(host.dataset.rev) + 1; host.dataset.cells = found.cells.length; host.dataset.node = found.node; host.dataset.colour = colour;
}

// ---- what is seen

const className = at => props.value.names[at] ?? `class ${at}`;
const best = cell => cell.classes.length ? cell.classes[0][1] / cell.rows : 0;
const called = cell => cell.words.length ? cell.words.slice(0, 2).join(', ') : cell.classes.length ? `mostly “${className(cell.classes[0][0])}”` : many(cell.rows);

function finding() {
  const cells = told.cells, whole = told.rows, mean = cells.reduce((sum, cell) => sum + (cell.value ?? 0) * cell.rows, 0) / whole;
  const where = told.path.length > 1 ? `${many(whole)} of this branch` : `All ${many(whole)}`, leaf = told.direct ? 'Merged row by row (Ward).' : 'Merged from 1,024 groups of rows (k-means, then Ward).';
  const by = value => [...cells].sort((a, b) => value(a) - value(b));
  const note = `${where} in ${cells.length} ${cells.length === 1 ? 'cluster' : 'clusters'}; an area is a number of rows, clusters that merge early lie together. ${leaf}`;
  const order = colour === 'label' ? by(best) : by(cell => cell.value), low = order[0], high = order[order.length - 1];
  if (colour === 'label') say(cells.length > 1 ? `The purest cluster is ${percent(best(high))} “${className(high.classes[0][0])}”, the most mixed only ${percent(best(low))} “${className(low.classes[0][0])}”` : `${percent(best(high))} are “${className(high.classes[0][0])}”`, note, 'measured');
  else if (colour === 'error') say(`A linear probe errs on ${percent(mean)} here, and on ${percent(high.value)} of the cluster ${called(high)}`, `${note} The probe learnt from the other four fifths of the rows.`, 'measured');
  else if (colour === 'kept') say(`${percent(mean)} stay here: ${percent(low.value)} of ${called(low)}, ${percent(high.value)} of ${called(high)}`, note, 'measured');
  else if (told.span) say(`The score is highest in ${called(high)} and lowest in ${called(low)}`, note, 'measured');
  else say('These rows have no score', note);
}

function path() {
  ui.path.replaceChildren();
  const way = told.path.length > 5 ? [told.path[0], null, ...told.path.slice(-3)] : told.path;
  const up = told.path.length > 1 ? told.path[told.path.length - 2].node : null;
  const back = press('‹ Back', () => zoom(up)); back.disabled = up === null; back.className = 'tm-back'; ui.path.append(back);
  way.forEach((at, index) => {
    if (index) ui.path.append(made('i', '', '›'));
    if (!at) return ui.path.append(made('span', '', '…'));
    const name = index ? many(at.rows) : `All ${many(at.rows)}`, last = index === way.length - 1;
    const step = last ? made('b', '', name) : press(name, () => zoom(at.node)); if (last) step.setAttribute('aria-current', 'true'); ui.path.append(step);
  });
}

const top = () => Math.max(...told.cells.map(cell => cell.value ?? 0), 0.01);
// [colour, how much of it in per cent]; the rest is the page's paper
function shade(cell) {
  const value = props.value;
  if (colour === 'label') return cell.classes.length ? [value.colours[cell.classes[0][0] % value.colours.length], 6 + 44 * best(cell)] : ['#888888', 10];
  if (colour === 'error') return [value.scale[2], 4 + 50 * cell.value / top()];
  if (colour === 'kept') return [value.kept, 4 + 50 * cell.value];
  if (!told.span || cell.value == null) return ['#888888', 10];
  const [low, high] = told.span, at = high > low ? Math.min(Math.max((cell.value - low) / (high - low), 0), 1) : 0.5;
  return at < 0.5 ? [value.scale[0], 50 - 84 * at] : [value.scale[2], 50 - 84 * (1 - at)];
}

function legend() {
  ui.legend.replaceChildren();
  const value = props.value, bar = (from, to, left, right) => { const strip = made('span', 'tm-strip'); strip.style.setProperty('--from', from); strip.style.setProperty('--to', to); put(ui.legend, made('span', '', left), strip, made('span', '', right)); };
  const faint = (tone, part) => `color-mix(in srgb, ${tone} ${part}%, var(--paper, #fff))`;
  if (colour === 'label') {
    ui.legend.append(made('span', '', 'Most rows are of class'));
    const seen = [...new Set(told.cells.filter(cell => cell.classes.length).map(cell => cell.classes[0][0]))].sort((a, b) => a - b);
    for (const at of seen.slice(0, 16)) { const mark = made('span', 'tm-mark', className(at)); mark.style.setProperty('--c', value.colours[at % value.colours.length]); ui.legend.append(mark); }
    ui.legend.append(made('span', '', 'the stronger, the purer'));
  } else if (colour === 'error') bar(faint(value.scale[2], 4), faint(value.scale[2], 54), 'wrong: 0 %', percent(top()));
  else if (colour === 'kept') bar(faint(value.kept, 4), faint(value.kept, 54), 'stay: 0 %', '100 %');
  else if (told.span) { bar(faint(value.scale[0], 50), faint(value.scale[2], 50), told.span[0].toPrecision(3), told.span[1].toPrecision(3)); ui.legend.append(made('span', '', 'mean score')); }
}

function cells() {
  const wide = ui.map.clientWidth, high = ui.map.clientHeight;
  ui.map.replaceChildren(...told.cells.map((cell, index) => {
    const [x, y, w, h] = cell.box, box = made('div', 'tm-cell'), [tone, part] = shade(cell);
    Object.assign(box.style, { left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * w}%`, height: `${100 * h}%` });
    box.style.setProperty('--c', tone); box.style.setProperty('--p', `${part.toFixed(1)}%`);
    const words = line(cell), inner = made('div', 'tm-inner'), narrow = w * wide < 84 || h * high < 40;
    const open = press('', () => cell.splits ? zoom(cell.node) : compare(cell), '', 'tm-zoom');
    open.setAttribute('aria-label', `${many(cell.rows)}: ${words}. ${cell.splits ? 'Zoom in' : 'It does not split'}`); open.title = `${many(cell.rows)}: ${words}`; open.dataset.index = index;
    const head = put(made('div', 'tm-head'), made('b', '', thousands(cell.rows)), made('span', '', says(cell)));
    if (w * wide > 26 && h * high > 18) inner.append(head);
    const shots = made('div', 'tm-shots'); for (const one of cell.pictures) { const image = drawing(one.picture); if (image) shots.append(image); } if (cell.pictures.length) inner.append(shots);
    if (cell.words.length && !narrow) inner.append(made('p', 'tm-text tm-words', cell.words.join(', ')));
    if (cell.texts.length && !narrow && h * high > 60) inner.append(made('p', 'tm-text', cell.texts[0].text));
    put(box, inner, open);
    if (!narrow && cell.sibling != null) box.append(press('⇄', () => compare(cell), `Compare these ${many(cell.rows)} with the sibling cluster`, 'tm-swap'));
    box.dataset.group = cell.group;
    return box;
  }));
}

// A cluster in a few words: what tells it apart, and what the colour says.
function line(cell) {
  return [says(cell), cell.words.join(', ')].filter(Boolean).join(' · ');
}

function says(cell) {
  return colour === 'error' ? `${percent(cell.value)} wrong` : colour === 'kept' ? `${percent(cell.value)} stay` : colour === 'score' ? (cell.value == null ? '' : cell.value.toPrecision(3)) : cell.classes.length ? `${percent(best(cell))} “${className(cell.classes[0][0])}”` : '';
}

function zoom(to) { if (to == null) return; node = to; ask(); }

function keyed(event) {
  const at = event.target.closest('.tm-cell'); if (!at) return;
  const all = [...ui.map.children], index = all.indexOf(at), cell = told.cells[index], here = at.getBoundingClientRect();
  if (event.key === 'Backspace') zoom(told.path.length > 1 ? told.path[told.path.length - 2].node : null);
  else if (event.key.toLowerCase() === 'c' && !event.ctrlKey && !event.metaKey) compare(cell);
  else if (event.key.startsWith('Arrow')) {
    const across = { ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0, down = { ArrowUp: -1, ArrowDown: 1 }[event.key] || 0, mid = box => [box.left + box.width / 2, box.top + box.height / 2], [x, y] = mid(here);
    const ahead = all.map(one => [one, ...mid(one.getBoundingClientRect())]).map(([one, a, b]) => [one, (a - x) * across + (b - y) * down, Math.abs((a - x) * down) + Math.abs((b - y) * across)]).filter(([one, on]) => one !== at && on > 4);
    if (ahead.length) ahead.sort((a, b) => a[1] + 2 * a[2] - b[1] - 2 * b[2])[0][0].querySelector('.tm-zoom').focus();
  } else return;
  event.preventDefault();
}

function twin() {
  const open = ui.twin.open, head = ['Rows', 'Most rows are', 'Share', MEANS[colour], 'Words or medoid'];
  const lines = told.cells.map(cell => [cell.rows, cell.classes.length ? className(cell.classes[0][0]) : '', cell.classes.length ? best(cell).toFixed(4) : '', cell.value == null ? '' : Number(cell.value.toPrecision(5)), cell.words.join(' ') || (cell.texts[0] ? cell.texts[0].text : cell.pictures[0] ? `row ${cell.pictures[0].row}` : '')]);
  const table = made('table'), row = (tag, values) => put(made('tr'), ...values.map(value => made(tag, '', value)));
  put(table, put(made('thead'), row('th', head)), put(made('tbody'), ...lines.map(values => row('td', values))));
  const quoted = value => /[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const copy = press('Copy as CSV', async () => { await navigator.clipboard.writeText([head, ...lines].map(values => values.map(quoted).join(',')).join('\n')); copy.textContent = 'Copied'; });
  const pane = made('div', 'tm-scroll'); pane.tabIndex = 0; pane.setAttribute('role', 'region'); pane.setAttribute('aria-label', 'Visible clusters'); pane.append(table);
  ui.twin.replaceChildren(made('summary', '', 'Table: visible clusters'), copy, pane); ui.twin.open = open;
}
