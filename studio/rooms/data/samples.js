// Rows of a data set as small cards. Texts go through textContent; a picture is only ever a data: URI of a PNG.
const host = element.querySelector('.samples');
const made = (tag, text, name) => {
  const node = document.createElement(tag);
  if (text != null) node.textContent = text;
  if (name) node.className = name;
  return node;
};
const card = item => {
  const button = made('button', null, item.stays ? 'sample stays' : 'sample goes');
  button.type = 'button';
  const facts = [`row ${item.row}`];
  if (item.label != null) facts.push(item.label);
  if (typeof item.picture === 'string' && item.picture.startsWith('data:image/png;base64,')) {
    const image = made('img');
    image.src = item.picture; image.alt = ''; image.width = image.height = 56;
    button.classList.add('drawn');
    button.append(image);
  }
  if (item.text != null) button.append(made('span', item.text, 'words'));
  const line = made('span', null, 'line');
  line.append(made('b', item.label ?? ''), made('span', `${item.row}`));
  if (item.note) line.append(made('i', item.note));
  button.append(line);
  button.setAttribute('aria-label', `${facts.join(', ')}, ${item.stays ? 'stays' : 'goes'}${item.text ? ': ' + item.text : ''}. Show what is near it.`);
  button.addEventListener('click', () => trigger('select', {row: item.row}));
  return button;
};
const draw = () => {
  const value = props.value;
  host.hidden = !value;
  host.replaceChildren();
  if (!value) return;
  host.append(made('h3', value.title));
  if (value.note) host.append(made('p', value.note));
  for (const group of value.groups) {
    if (group.name) host.append(made('h4', group.name));
    const list = made('div', null, 'cards');
    list.append(...group.items.map(card));
    host.append(list);
  }
  host.dataset.rev = Number(host.dataset.rev || 0) + 1;
};
watch('value', draw);
draw();
