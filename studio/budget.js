// core/budget.py in the browser's own words, so that an estimate follows a hand without asking the server. A test feeds both the same cases.
const Budget = (() => {
  const HIGHEST = 0.95;
  const halfEven = x => { const low = Math.floor(x), rest = x - low; return rest < 0.5 ? low : rest > 0.5 ? low + 1 : low + (low % 2); };
  const get = (shares, unit) => (unit in shares ? shares[unit] : 0);
  const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

  const costAt = (curves, unit, share) => {
    const levels = curves.levels, values = curves.cost[unit];
    const above = levels.findIndex(level => level > share);
    const right = clamp(above < 0 ? levels.length : above, 1, levels.length - 1);
    const low = levels[right - 1], high = levels[right];
    return values[right - 1] + (values[right] - values[right - 1]) * (share - low) / (high - low);
  };

  const estimate = (curves, sizes, shares) => {
    let total = 0, kept = 0, increase = 0;
    for (const unit in sizes) { total += sizes[unit]; kept += halfEven(sizes[unit] * (1 - get(shares, unit))); }
    if (curves) for (const unit in shares) if (unit in curves.cost) increase += costAt(curves, unit, shares[unit]);
    const quality = curves ? curves.dense * Math.exp(Math.min(increase, 300)) : null;
    return { quality, kept, total, sparsity: total ? 1 - kept / total : 0 };
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
  return { HIGHEST, costAt, estimate, redistribute, clamp };
})();
