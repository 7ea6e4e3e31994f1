// A model as it is built: a row a block, each weight matrix a rectangle to scale. Names are set as textContent.
const host = element.querySelector('.anatomy'), NS = 'http://www.w3.org/2000/svg';
if (element.parentElement) element.parentElement.style.padding = '0';
const TOP = 40, NARROW = 560; // below that width figures stand without their bars
let left = 52, bars_wide = 210, gap = 7, tail = 40;
const tone = role => ({ query: 'attention', key: 'attention', value: 'attention', output: 'attention', qkv: 'attention', gate: 'mlp', up: 'mlp', down: 'mlp', mlp: 'mlp' }[role] || 'conv');
const count = n => n >= 1e9 ? `${(n / 1e9).toFixed(2)} B` : n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : n >= 1e4 ? `${Math.round(n / 1e3)} k` : n.toLocaleString('en-US');
const svg = (tag, given, text) => { const node = document.createElementNS(NS, tag); for (const [key, value] of Object.entries(given)) node.setAttribute(key, value);
  if (text != null) node.textContent = text; return node; };
const extent = layer => [layer.shape[0], layer.shape.slice(1).reduce((a, b) => a * b, 1)];
const short = name => name.replace(/^blocks\.\d+\./, '');

const WINDOW = 100, MOST = 40; // rows drawn at once, and matrices in a row
let from = 0, read = '', value = null;

function rowsOf(value) {
  if (!value.blocks.length) return [{ label: 'all', layers: value.layers.slice(0, MOST), all: value.layers, parameters: value.parameters, title: 'The whole model' }];
  const mine = new Map(value.blocks.map(block => [block.index, []]));
  for (const layer of value.layers) mine.get(layer.block)?.push(layer);
  return value.blocks.map(block => ({ label: String(block.index), layers: mine.get(block.index).slice(0, MOST), all: mine.get(block.index), parameters: block.parameters,
    attention: block.attention, title: `Block ${block.index}` }));
}

// Where there are more blocks than are drawn at once: which these are, and the way to the others.
function pager(count) {
  const line = document.createElement('div'), words = document.createElement('span'); line.className = 'pager';
  const step = (label, to) => { const button = document.createElement('button'); button.type = 'button'; button.textContent = label; button.disabled = to < 0 || to >= count;
    button.onclick = () => { from = to; paint(); host.querySelector(`.pager button:${to < count - WINDOW ? 'last' : 'first'}-child`)?.focus(); }; return button; };
  words.textContent = `Blocks ${from.toLocaleString('en-US')} to ${(Math.min(from + WINDOW, count) - 1).toLocaleString('en-US')} of ${count.toLocaleString('en-US')}`;
  line.append(step('Earlier blocks', from - WINDOW), words, step('Later blocks', from + WINDOW)); return line;
}

function sizeOf(rows, width) {
  const tall = Math.max(...rows.flatMap(row => row.layers.map(layer => extent(layer)[0])), 1);
  const wide = Math.max(...rows.map(row => row.layers.reduce((sum, layer) => sum + extent(layer)[1], 0)), 1);
  const most = Math.max(...rows.map(row => row.layers.length), 1), height = Math.min(Math.max(520 / rows.length, 26), 92);
  const scale = Math.max(Math.min((height - 10) / tall, (width - left - bars_wide - tail - gap * most) / wide), 0);
  return { height: Math.max(Math.min(height, tall * scale + 14), 26), scale, right: left + wide * scale + gap * most + tail };
}

function matrix(layer, x, middle, scale, attention) {
  const [out, inputs] = extent(layer), w = Math.max(inputs * scale, 2), h = Math.max(out * scale, 2), group = svg('g', { class: `matrix ${tone(layer.role)}` });
  group.append(svg('title', {}, `${layer.name}: ${layer.shape.join(' × ')}, ${count(layer.parameters)} parameters`));
  group.append(svg('rect', { x, y: middle - h / 2, width: w, height: h, rx: Math.min(2.5, w / 4, h / 4) }));
  const heads = attention && { query: attention.query_heads, key: attention.kv_heads, value: attention.kv_heads }[layer.role];
  if (heads > 1 && h / heads > 2.5) for (let i = 1; i < heads; i++) group.append(svg('line', { x1: x, x2: x + w, y1: middle - h / 2 + i * h / heads, y2: middle - h / 2 + i * h / heads }));
  return [group, w];
}

function bar(row, x, middle, most, total, width) {
  const group = svg('g', { class: 'bar' }), full = Math.max(width - 120, 0); let at = x;
  group.append(svg('title', {}, `${row.title}: ${row.parameters.toLocaleString('en-US')} parameters, ${(100 * row.parameters / total).toFixed(1)} % of the model`));
  for (const kind of ['attention', 'mlp', 'conv', 'rest']) {
    const mine = kind === 'rest' ? row.parameters - (row.all || row.layers).reduce((sum, l) => sum + l.parameters, 0) : (row.all || row.layers).filter(l => tone(l.role) === kind).reduce((sum, l) => sum + l.parameters, 0);
    const w = Math.max(0, full * mine / most); if (w > 0.3) group.append(svg('rect', { class: row.flat ? 'flat' : kind, x: at, y: middle - 6, width: w, height: 12 })); at += w;
  }
  group.append(svg('text', { x: x + width - 52, y: middle + 4, 'text-anchor': 'end', class: 'number' }, count(row.parameters)));
  group.append(svg('text', { x: x + width, y: middle + 4, 'text-anchor': 'end', class: 'soft' }, `${(100 * row.parameters / total).toFixed(1)} %`));
  return group;
}

function heads(drawing, row, scale, right) {
  let x = left, last = '';
  drawing.append(svg('text', { x: 0, y: 14, class: 'soft' }, 'block'), svg('text', { x: right, y: 14, class: 'soft' }, 'parameters'));
  for (const layer of row.layers) {
    const w = Math.max(extent(layer)[1] * scale, 2), word = { attention: 'attention', mlp: 'MLP', conv: 'convolution' }[tone(layer.role)];
    if (word !== last) drawing.append(svg('text', { x, y: 14, class: `word ${tone(layer.role)}` }, word));
    last = word; x += w + gap;
  }
}

function paint() {
  const whole = props.value?.whole || ''; host.replaceChildren(); if (whole !== read) { read = whole; value = whole && JSON.parse(whole); from = 0; }
  if (!value || !value.layers) return;
  const all = rowsOf(value), rows = all.slice(from, from + WINDOW), narrow = host.clientWidth && host.clientWidth < NARROW;
  [left, bars_wide, gap, tail] = narrow ? [44, 96, 4, 12] : [52, 210, 7, 40];
  const room = Math.min((host.clientWidth || 936) - 36, 1180), { height, scale, right } = sizeOf(rows, room), width = Math.max(room, right + bars_wide), bars = width - right;
  const others = (value.elsewhere || []).map(part => ({ label: '', layers: [], parameters: part.parameters, title: part.name, flat: true, part }));
  const most = [...all, ...others].reduce((most, row) => Math.max(most, row.parameters), 1);
  const drawing = svg('svg', { viewBox: `0 0 ${width} ${TOP + rows.length * height + others.length * 26 - 4}`, width, 'aria-hidden': 'true' });
  heads(drawing, rows[0], scale, right);
  let y = TOP - 14;
  for (const row of rows) {
    const middle = y + height / 2; let x = left;
    drawing.append(svg('text', { x: 12, y: middle + 4, 'text-anchor': 'middle', class: 'number' }, row.label));
    drawing.append(svg('line', { x1: 30, x2: 30, y1: y + (row === rows[0] ? height / 2 : 0), y2: y + (row === rows.at(-1) ? height / 2 : height), class: 'stream' }));
    drawing.append(svg('line', { x1: 30, x2: left - 8, y1: middle, y2: middle, class: 'stream' }), svg('circle', { cx: 30, cy: middle, r: 3, class: 'joint' }));
    for (const layer of row.layers) { const [node, w] = matrix(layer, x, middle, scale, row.attention); drawing.append(node); x += w + gap; }
    drawing.append(bar(row, right, middle, most, value.parameters, bars)); y += height;
  }
  for (const row of others) {
    const middle = y + 16, shape = row.part.shape.join(' × ');
    drawing.append(svg('text', { x: left, y: middle + 4, class: 'soft' }, narrow ? `${row.title.split('.').at(-1)}, ${row.part.tied ? 'tied' : 'not pruned'}` : `${short(row.title)}  ${shape}${row.part.tied ? ', tied to the embedding' : ', not pruned'}`));
    if (row.parameters) drawing.append(bar(row, right, middle, most, value.parameters, bars)); y += 26;
  }
  host.append(drawing); host.tabIndex = host.scrollWidth > host.clientWidth ? 0 : -1; if (all.length > WINDOW) host.append(pager(all.length)); host.dataset.rev = Number(host.dataset.rev || 0) + 1;
}
watch('value', paint); paint();
let seen = 0; new ResizeObserver(() => { if (Math.abs(host.clientWidth - seen) > 8) { seen = host.clientWidth; paint(); } }).observe(host);
