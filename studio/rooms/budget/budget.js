// core/budget.py in the browser's own words, so that an estimate follows a hand without asking the server. A test feeds both the same cases.
const Budget = (() => {
  const HIGHEST = 0.95;
  const halfEven = x => { const low = Math.floor(x), rest = x - low; return rest < 0.5 ? low : rest > 0.5 ? low + 1 : low + (low % 2); };
  const own = (map, name) => Object.prototype.hasOwnProperty.call(map, name);
  const get = (shares, unit) => (own(shares, unit) ? shares[unit] : 0);
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  const costAt = (curves, unit, share) => {
    const levels = curves.levels, values = curves.cost[unit];
    let right = 1;
    while (right < levels.length - 1 && levels[right] <= share) right++;
    const low = levels[right - 1], high = levels[right];
    return values[right - 1] + (values[right] - values[right - 1]) * (share - low) / (high - low);
  };

  const combined = (curves, total) => (curves.scale ?? 1) * (total > 0 ? total ** (curves.power ?? 1) : total);

  const estimate = (curves, sizes, shares) => {
    let total = 0, kept = 0, sum = 0;
    for (const unit in sizes) { total += sizes[unit]; kept += halfEven(sizes[unit] * (1 - get(shares, unit))); }
    const sparsity = total ? 1 - kept / total : 0;
    if (!curves) return { quality: null, low: null, high: null, kept, total, sparsity };
    for (const unit in shares) if (own(curves.cost, unit)) sum += costAt(curves, unit, shares[unit]);
    const increase = combined(curves, sum), off = Math.exp(curves.within || 0), ends = [increase / off, increase * off], floor = curves.floor || 0;
    const [low, quality, high] = [Math.min(...ends) - floor, increase, Math.max(...ends) + floor].map(x => curves.dense * Math.exp(Math.min(x, 300)));
    return { quality, low, high, kept, total, sparsity };
  };

  const redistribute = (shares, sizes, target, locked = [], highest = HIGHEST) => {
    const fixed = new Set(locked), out = {};
    let total = 0, held = 0, available = 0;
    for (const unit in sizes) { out[unit] = get(shares, unit); total += sizes[unit]; held += out[unit] * sizes[unit]; }
    const wanted = target * total - held;
    const free = Object.keys(sizes).filter(unit => !fixed.has(unit));
    const room = unit => (wanted > 0 ? Math.max(highest - out[unit], 0) : out[unit]);
    for (const unit of free) available += room(unit) * sizes[unit];
    if (available <= 0) return out;
    const part = Math.min(Math.abs(wanted) / available, 1) * (wanted > 0 ? 1 : -1);
    for (const unit of free) out[unit] = clamp(out[unit] + part * room(unit), 0, 1);
    return out;
  };

  // A total spread in a shape ({unit: weight}): a unit of weight 0 stays whole, a locked one as it is.
  const shaped = (shares, sizes, weights, target, locked = [], highest = HIGHEST) => {
    const fixed = new Set(locked), next = {};
    for (const unit in sizes) next[unit] = fixed.has(unit) ? get(shares, unit) : clamp(target * weights[unit], 0, highest);
    return redistribute(next, sizes, target, [...fixed, ...Object.keys(sizes).filter(unit => !weights[unit])], highest);
  };

  // {layer or block: share} -> {layer: share}, and back to the shortest that means the same. blockOf: {layer: block}, in order.
  const byPart = (shares, blockOf) => {
    const out = {};
    for (const part in blockOf) out[part] = own(shares, part) ? shares[part] : get(shares, blockOf[part]);
    return out;
  };

  const compact = (shares, blockOf) => {
    const members = new Map(), out = {};
    for (const part in blockOf) { if (!members.has(blockOf[part])) members.set(blockOf[part], []); members.get(blockOf[part]).push(part); }
    for (const [block, parts] of members) {
      const first = get(shares, parts[0]), alike = parts.every(part => get(shares, part) === first);
      if (alike) { if (first) out[block] = first; } else for (const part of parts) if (get(shares, part)) out[part] = get(shares, part);
    }
    return out;
  };

  // Half way between two budgets, or any other part of the way.
  const blend = (one, other, part) => Object.fromEntries(Object.keys(one).map(unit => [unit, one[unit] + (get(other, unit) - one[unit]) * part]));

  return { HIGHEST, costAt, combined, estimate, redistribute, shaped, byPart, compact, blend, clamp };
})();
