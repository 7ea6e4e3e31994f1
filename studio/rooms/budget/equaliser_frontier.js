// The equaliser's frontier: quality against size, the best budget of every size, uniform ones, and where this budget stands

const FRAME = { left: 44, right: 350, top: 10, bottom: 152 };
let front = null;

function frontierPicture() {
  ui.side = make('figure', 'eq-frontier'); ui.frontTitle = make('figcaption'); ui.front = drawn('svg', { viewBox: '0 0 360 190', role: 'img' });
  return put(ui.side, ui.frontTitle, ui.front, put(make('div', 'eq-front-tools'), make('span', 'badge badge-estimate', 'estimate'), button('PNG', savePicture, 'Save this picture as PNG')));
}

// The picture as it stands: styles are written out, since a file has no style sheet, and its title stands above it.
const WRITTEN = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'font-size', 'font-family'];
async function savePicture() {
  const copy = ui.front.cloneNode(true), from = [...ui.front.querySelectorAll('*')], face = getComputedStyle(host), [wide, high, scale] = [420, 240, 3];
  [...copy.querySelectorAll('*')].forEach((node, at) => { const style = getComputedStyle(from[at]); if (style.display === 'none') node.remove(); else for (const name of WRITTEN) node.setAttribute(name, style.getPropertyValue(name)); });
  for (const [name, value] of Object.entries({ x: 30, y: 44, width: 360, height: 190 })) copy.setAttribute(name, value);
  const title = drawn('text', { x: 12, y: 18, 'font-size': 11.5, 'font-family': face.fontFamily, fill: face.color });
  wrapped(ui.frontTitle.textContent, 68).forEach((line, at) => { const span = drawn('tspan', { x: 12, y: 18 + 15 * at }); span.textContent = line; title.append(span); });
  const page = drawn('svg', { xmlns: SVG, viewBox: `0 0 ${wide} ${high}`, width: wide * scale, height: high * scale }, drawn('rect', { width: wide, height: high, fill: getComputedStyle(document.body).backgroundColor }), title, copy);
  const image = new Image(); image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(page))}`;
  try { await image.decode(); } catch (error) { return say('This browser could not draw the picture.'); }
  const canvas = make('canvas'); canvas.width = wide * scale; canvas.height = high * scale; canvas.getContext('2d').drawImage(image, 0, 0);
  const link = make('a'); link.href = canvas.toDataURL('image/png'); link.download = 'prunarium-frontier.png'; link.click();
}

function wrapped(text, most) {
  const lines = [''];
  for (const word of text.split(' ')) if ((lines[lines.length - 1] + word).length > most) lines.push(word); else lines[lines.length - 1] += `${lines[lines.length - 1] && ' '}${word}`;
  return lines;
}

function drawFrontier() {
  front = null;
  if (!model.curves || !model.frontier || model.frontier.length < 2) return;
  const size = removed => (model.parameters - removed) * model.bytes_per_parameter, all = Object.values(sizes).reduce((a, b) => a + b, 0);
  const best = model.frontier.map(([removed, increase]) => [size(removed), increase]);
  const uniform = Array.from({ length: 25 }, (_, i) => { const share = model.highest * i / 24; return [size(share * all), Math.log(Budget.estimate(model.curves, sizes, Object.fromEntries(Object.keys(sizes).map(name => [name, share]))).quality / model.curves.dense)]; });
  const most = Math.min(Math.max(best[best.length - 1][1], 0.05), Math.log(3)); // beyond three times dense nobody chooses
  const low = Math.min(...best.filter(point => point[1] <= most * 1.02).map(point => point[0]), size(0) * 0.98), high = size(0);
  const x = at => FRAME.left + (FRAME.right - FRAME.left) * Budget.clamp((at - low) / (high - low || 1), 0, 1), y = increase => FRAME.bottom - (FRAME.bottom - FRAME.top) * Budget.clamp(increase / most, -0.03, 1.03);
  const line = points => points.filter(point => point[0] >= low && point[1] <= most * 1.03).map((point, i) => `${i ? 'L' : 'M'}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join('');
  front = { best, x, y, size };
  const words = (text, cls, at) => { const node = drawn('text', { class: cls, ...at }); node.textContent = text; return node; };
  const ticks = [0, 0.5, 1].map(part => most * part), columns = [0, 0.5, 1].map(part => low + (high - low) * part);
  ui.dot = drawn('circle', { r: 5.5, class: 'dot' }); ui.ideaDot = drawn('circle', { r: 4, class: 'idea' });
  ui.front.replaceChildren(
    ...ticks.flatMap(at => [drawn('path', { class: 'rule', d: `M${FRAME.left} ${y(at)}H${FRAME.right}` }), words(quality(model.curves.dense * Math.exp(at)), 'tick', { x: FRAME.left - 6, y: y(at) + 4, 'text-anchor': 'end' })]),
    ...columns.map((at, i) => words(bytes(at), 'tick', { x: x(at), y: FRAME.bottom + 15, 'text-anchor': i === 2 ? 'end' : i ? 'middle' : 'start' })),
    words(`bytes not zero; up: predicted ${metricOf()}, log scale`, 'tick', { x: (FRAME.left + FRAME.right) / 2, y: 186, 'text-anchor': 'middle' }),
    words('solid: best, dashed: uniform', 'tick', { x: FRAME.right, y: FRAME.top + 16, 'text-anchor': 'end' }),
    drawn('path', { class: 'uniform', d: line(uniform) }), drawn('path', { class: 'best', d: line(best) }), ui.ideaDot, ui.dot);
}

// Read on the frontier at a size: the predicted log increase of the best budget that is as small.
function bestAt(at) {
  const points = front.best; // sizes fall
  let i = points.findIndex(point => point[0] <= at);
  if (i < 0) return points[points.length - 1][1];
  if (i === 0) return points[0][1];
  const [a, b] = [points[i - 1], points[i]];
  return a[1] + (b[1] - a[1]) * (a[0] - at) / (a[0] - b[0] || 1);
}

function paintFrontier(now) {
  if (!front) return;
  const at = front.size(now.total - now.kept), increase = Math.log(now.quality / model.curves.dense), best = model.curves.dense * Math.exp(bestAt(at));
  ui.dot.setAttribute('cx', front.x(at)); ui.dot.setAttribute('cy', front.y(increase));
  ui.ideaDot.style.display = ghost ? '' : 'none';
  if (ghost) { const idea = Budget.estimate(model.curves, sizes, ghost.shares); ui.ideaDot.setAttribute('cx', front.x(front.size(idea.total - idea.kept))); ui.ideaDot.setAttribute('cy', front.y(Math.log(idea.quality / model.curves.dense))); }
  const worse = now.quality / best - 1, words = now.sparsity === 0 ? 'Nothing is pruned yet' : worse < 0.003 ? `As good as the best budget of this size: ${metricOf()} ${quality(best)}, estimated` : `Estimated ${metricOf()}: ${quality(now.quality)}; the best budget of this size would have ${quality(best)}`;
  ui.frontTitle.textContent = words;
  ui.front.setAttribute('aria-label', `${words}. Solid line: the best budget of each size; dashed: uniform; the dot: this budget.`);
}
