// Draws figures, texts or a sentence from plain data. Only textContent: no word of a file, model or person is ever markup.
const box = element.firstElementChild;
const made = (tag, text, name) => {
  const node = document.createElement(tag);
  if (text != null) node.textContent = text;
  if (name) node.className = name;
  return node;
};
const figure = card => {
  const article = made('article'), title = made('h4'), big = made('div'), list = made('dl');
  if (card.tone) article.style.setProperty('--tone', card.tone);
  title.append(made('span', card.title));
  if (card.badge) title.append(made('span', card.badge, 'badge badge-' + card.badge.split(' ')[0]));
  big.append(made('span', card.big, 'big'), made('span', card.unit, 'unit'));
  for (const [label, value, tone] of card.rows || []) list.append(made('dt', label), made('dd', value, tone));
  article.append(title, big, list);
  return article;
};
const words = item => {
  const article = made('article'), title = made('h4', item.title);
  if (item.tone) article.style.borderTop = '3px solid ' + item.tone;
  article.append(title, made('em', item.lead || ''));
  if (!item.tokens) article.append(made('span', item.text));
  for (const [text, level, hint] of item.tokens || []) {  // level 0..1 decides how deep the colour is
    const token = made('span', text, 'token');
    token.style.setProperty('--level', Math.round(100 * Math.min(Math.max(level, 0), 1)) + '%');
    token.title = hint;
    article.append(token);
  }
  return article;
};
const show = () => {
  const value = props.value, kind = box.classList[0];
  box.hidden = value == null || value === '' || (Array.isArray(value) && !value.length);
  if (box.hidden) return box.replaceChildren();
  if (kind === 'figures') box.replaceChildren(...value.map(figure));
  else if (kind === 'texts') box.replaceChildren(...value.map(words));
  else {
    box.textContent = typeof value === 'string' ? value : value.text;
    box.classList.toggle('wrong', !!value.wrong);
  }
  box.dataset.rev = Number(box.dataset.rev || 0) + 1;
};
watch('value', show);
show();
