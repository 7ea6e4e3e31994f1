// Two clusters side by side: what they hold, and what tells them apart.
async function compare(cell, other) {
  const nodes = [cell.node, other ?? cell.sibling]; if (nodes[1] == null) return;
  pairOf = nodes;
  ui.pair.hidden = false; ui.pair.replaceChildren(made('p', '', 'Looking at both …'));
  let found;
  try { found = await server.pair({ choice: props.value.choice, keep: props.value.keep, nodes, colour }); } catch (error) { found = { problem: 'The studio does not answer. Reload the page.' }; }
  if (pairOf !== nodes) return;
  if (found.problem || !found.ready) { ui.pair.replaceChildren(made('p', '', found.problem || 'This colour is not known yet; choose another.'), closing()); return; }
  side_by_side(found);
  ui.pair.scrollIntoView({ block: 'nearest' });
}

const closing = () => press('Close', () => { pairOf = null; ui.pair.hidden = true; });

function side_by_side(found) {
  const [left, right] = found.sides, head = made('header');
  const share = (side, at) => { const has = side.classes.find(([one]) => one === at); return has ? has[1] / side.rows : 0; };
  const classes = [...new Set(found.sides.flatMap(side => side.classes.map(([at]) => at)))];
  classes.sort((a, b) => Math.abs(share(right, b) - share(left, b)) - Math.abs(share(right, a) - share(left, a)));
  const apart = classes[0];
  const title = classes.length && Math.abs(share(left, apart) - share(right, apart)) > 0.02 ? `“${className(apart)}” is ${percent(share(left, apart))} of the left cluster and ${percent(share(right, apart))} of the right`
    : left.words.length ? `Left: ${left.words.slice(0, 3).join(', ')}; right: ${right.words.slice(0, 3).join(', ')}` : 'The two hold the same classes';
  const line = put(made('h3', '', title), made('span', 'badge badge-measured', 'measured'));
  const against = made('select'), label = put(made('label', '', 'Right side'), against), mine = told.cells.find(cell => cell.node === left.node);
  const choices = [{ node: left.sibling, name: 'its sibling in the tree' }, ...told.cells.filter(cell => cell.node !== left.node && cell.node !== left.sibling).map(cell => ({ node: cell.node, name: `${many(cell.rows)}: ${called(cell)}` }))].filter(one => one.node != null);
  for (const one of choices) { const option = made('option', '', one.name); option.value = one.node; against.append(option); }
  against.value = right.node; against.onchange = () => compare(mine || left, Number(against.value));
  put(head, line, put(made('div', 'tm-tools'), label, closing()), made('p', '', `The cosine of their centres is ${found.cosine.toFixed(2)}.`));
  const sides = put(made('div', 'tm-sides'), ...found.sides.map((side, index) => one_side(side, index, classes.slice(0, 8), share)));
  ui.pair.replaceChildren(head, sides); ui.pair.dataset.rev = Number(ui.pair.dataset.rev || 0) + 1;
}

function one_side(side, index, classes, share) {
  const box = made('div', 'tm-side'), value = side.value == null ? '' : colour === 'score' ? `, mean score ${side.value.toPrecision(3)}` : `, ${percent(side.value)} ${colour === 'error' ? 'wrong' : 'stay'}`;
  box.append(made('h4', '', `${index ? 'Right' : 'Left'}: ${many(side.rows)}${value}`));
  if (side.words.length) box.append(made('p', 'tm-words', side.words.join(', ')));
  for (const at of classes) {
    const bar = made('div', 'tm-bar'), fill = made('i'); fill.style.width = `${100 * share(side, at)}%`; fill.style.background = props.value.colours[at % props.value.colours.length];
    put(box, put(made('div', 'tm-line'), made('span', '', className(at)), put(bar, fill), made('span', '', percent(share(side, at)))));
  }
  const shots = made('div', 'tm-shots');
  for (const one of side.pictures) { const image = drawing(one.picture); if (image) shots.append(put(press('', () => trigger('select', { row: one.row }), `Row ${one.row}: show what is near it`), image)); }
  if (side.pictures.length) box.append(shots);
  for (const one of side.texts) box.append(press(one.text, () => trigger('select', { row: one.row }), `Row ${one.row}: ${one.text}. Show what is near it`, 'tm-row'));
  return box;
}

// ---- life: drawn when it comes into view, anew for other rows, laid out again for another width

function fresh() {
  const value = props.value, rows = value ? value.key : '', now = value ? JSON.stringify([value.choice, value.keep]) : '';
  if (now === key) return;
  const same = value && rows === rowsOf;  // only the order or the choice is another
  key = now; rowsOf = rows;
  if (same && ui.map && told) { if (colour === 'kept' || colour === 'score') ask(); return; }
  node = null; told = null; pairOf = null; build(); ask();
}
new IntersectionObserver(seen => { const now = seen.some(one => one.isIntersecting); if (now && !near) { near = true; if (!told) ask(); } near = now || near; }, { rootMargin: '200px' }).observe(host);
let pause = 0;
new ResizeObserver(() => { if (!ui.map || !told || Math.abs(ui.map.clientWidth - size) < 24 || !ui.map.clientWidth) return; clearTimeout(pause); pause = setTimeout(ask, 200); }).observe(host);
watch('value', fresh); fresh();
