// The cards of the Learn room. Titles and problems come from lesson files: textContent only. Opening one is a word to the lesson panel.
const host = element.querySelector('.lessons');
const make = (tag, cls, text) => { const node = document.createElement(tag); if (cls) node.className = cls; if (text != null) node.textContent = text; return node; };
const open = (lesson, step, anew) => dispatchEvent(new CustomEvent('prunarium-lesson', { detail: { lesson, step, anew } }));
const act = (text, one, step, anew, cls) => {
  const node = make('button', cls, text); node.type = 'button'; node.onclick = () => open(one.name, step, anew);
  node.setAttribute('aria-label', `${text}: ${one.title}`); return node;
};
function card(one) {
  const box = make('article', one.broken ? 'broken' : ''); box.dataset.lesson = one.name;
  box.append(make('h3', '', one.title));
  if (one.broken) { box.append(make('p', 'about', one.broken), make('p', 'small', 'This lesson cannot be taught as it is.')); return box; }
  const far = make('div', 'far'), line = make('i'), acts = make('div', 'acts');
  far.setAttribute('role', 'progressbar'); far.setAttribute('aria-label', `${one.title}: ${one.said}`); far.setAttribute('aria-valuenow', Math.round(100 * one.far));
  line.style.width = `${100 * one.far}%`; far.append(line);
  if (one.finished) acts.append(act('Do it again', one, 1, true, 'main'), act('Look again', one, 1, false, ''));
  else if (one.begun) acts.append(act('Go on', one, one.step, false, 'main'), act('Begin anew', one, 1, true, ''));
  else acts.append(act('Begin', one, 1, false, 'main'));
  const small = make('p', 'small whole'); small.append(...one.small.split(' · ').flatMap((word, i) => [i ? ' · ' : '', make('span', '', word)])); // a name does not break at its hyphen
  box.append(make('p', 'about', one.about), small, make('p', 'small', one.said), far, acts);
  return box;
}
const draw = () => { host.replaceChildren(...(props.value || []).map(card)); host.dataset.rev = Number(host.dataset.rev || 0) + 1; };
watch('value', draw); draw();
