// The plan's first steps in the page: N*, D*, the shape, N, D, forecast with its interval, time and cost, from the
// law's parameters and bootstrap draws. The equations are those of analysis.planning.split, .shape and
// analysis.laws.law; a test in a browser holds the two to four digits.
const planner = (() => {
  const erfc = x => { // Press et al. 2007, Numerical Recipes, section 6.2.2: 1.2e-7
    const z = Math.abs(x), t = 2 / (2 + z), c = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277];
    const r = t * Math.exp(-z * z + c.reduceRight((sum, k) => k + t * sum, 0));
    return x >= 0 ? r : 2 - r;
  };
  const ndtr = x => erfc(-x / Math.SQRT2) / 2;
  const ndtri = p => { // by halving, to the precision of ndtr
    let low = -8, high = 8;
    for (let i = 0; i < 60; i++) { const middle = (low + high) / 2; if (ndtr(middle) < p) low = middle; else high = middle; }
    return (low + high) / 2;
  };
  const atShare = (ordered, share) => {
    const at = share * (ordered.length - 1), lower = Math.min(Math.floor(at), ordered.length - 1), upper = Math.min(lower + 1, ordered.length - 1);
    return ordered[lower] + (at - lower) * (ordered[upper] - ordered[lower]);
  };
  const sorted = values => Float64Array.from(values).sort();

  // a case of form=coupled; p = 1 is the Chinchilla form
  const closed = ([E, A, B, alpha, beta, p = 1], flops) => { // Hoffmann et al. 2022, eq. 4, with p alpha and p beta
    const logG = (Math.log(alpha / beta) / p + Math.log(A / B)) / (alpha + beta);
    return Math.exp(logG + beta / (alpha + beta) * Math.log(flops / 6));
  };
  const effective = (total, unique, decay) => unique * (1 + decay * (1 - Math.exp((1 - total / unique) / decay)));
  const coupled = ([E, A, B, alpha, beta, p = 1], n, d, unique, rates) => { // Muennighoff et al. 2023, eq. 5-6, where data repeat
    if (unique) {
      const u = Math.min(unique, d), logG = Math.log(alpha * A / (beta * B)) / (alpha + beta);
      const useful = Math.min(Math.exp(logG + beta / alpha * (Math.log(u) + logG)), n);
      d = effective(d, u, rates[0]); n = effective(n, useful, rates[1]);
    }
    return E + ((A * n ** -alpha) ** p + (B * d ** -beta) ** p) ** (1 / p);
  };
  const farseer = ([a1, alpha, b1, a2, beta, b2, a3, gamma, b3], n, d) => // arXiv 2506.10972
    Math.exp(a3 * n ** gamma + b3) + Math.exp(a2 * n ** beta + b2 - Math.exp(a1 * n ** alpha + b1) * Math.log(d));
  const frontier = ([E, A, B, gamma, kappa, mu], n, d) => // analysis.forms.frontier
    E + (n * d) ** -gamma * (A * n ** -kappa * (n * d) ** mu + B * n ** kappa * (n * d) ** -mu);
  const others = { farseer, frontier }; // forms that are no case of form=coupled
  const loss = (member, parameters, n, d, unique, rates) => others[member.form] ? others[member.form](parameters, n, d) : coupled(parameters, n, d, unique, rates);

  // Of an average the draws of all forms are of the same resamples; one draw stands for all.
  const drawOf = (member, i) => i === null ? member.parameters : member.draws[Math.min(i, member.draws.length - 1)];
  const drawCount = law => Math.max(...law.members.filter(m => m.weight).map(m => m.draws.length));
  const drawn = (law, of) => Array.from({ length: drawCount(law) }, (_, i) => of(i));
  const whole = law => law.members.reduce((sum, m) => sum + m.weight, 0);
  const beyondRuns = ({ params, tokens_per_param: ratios }, n, d) => Math.max(0, Math.log(params[0] / n), Math.log(n / params[1]), Math.log(ratios[0] / (d / n)), Math.log(d / n / ratios[1]));
  const middleOf = pairs => { // the weighted median of [value, share], of two where the weight splits in half
    const ordered = [...pairs].sort((a, b) => a[0] - b[0]);
    const at = share => { let sum = 0; return ordered.find(([, w]) => (sum += w) >= share)[0]; };
    return (at(0.5 - 1e-9) + at(0.5 + 1e-9)) / 2;
  };
  const logLoss = (law, i, n, d, unique) => {
    const shares = law.members.filter(m => m.weight).map(m => [Math.log(loss(m, drawOf(m, i), n, d, unique, law.rates)), m.weight / whole(law)]);
    const mean = of => shares.reduce((sum, [value, share]) => sum + share * of(value), 0);
    const far = law.fitted && shares.length > 1 ? beyondRuns(law.fitted, n, d) : 0;
    if (!(far > 1e-6) || shares.some(([value]) => !isFinite(value))) return mean(v => v);
    const middle = middleOf(shares), half = law.fitted.held / Math.min(far, 1); // analysis.forms.average
    return mean(v => Math.min(middle + half, Math.max(middle - half, v)));
  };
  const knots = new WeakMap();
  const perToken = (law, n) => { // analysis.forms.token_flops: c / 6N between knots in log N, a cubic
    const block = law.token_flops;
    if (!block) return 6 * n;
    if (!knots.has(block)) {
      const y = block.over_6n.map(Math.log), last = y.length - 1;
      knots.set(block, [y, y.map((_, i) => i === 0 ? y[1] - y[0] : i === last ? y[last] - y[last - 1] : (y[i + 1] - y[i - 1]) / 2)]);
    }
    const [y, slope] = knots.get(block), place = Math.log(n / block.least) / block.step, inside = Math.min(Math.max(place, 0), y.length - 1);
    const i = Math.min(Math.floor(inside), y.length - 2), t = inside - i;
    const value = (1 + 2 * t) * (1 - t) ** 2 * y[i] + t * (1 - t) ** 2 * slope[i] + t * t * (3 - 2 * t) * y[i + 1] + t * t * (t - 1) * slope[i + 1];
    return 6 * n * Math.exp(value + (place - inside) * (place < 0 ? slope[0] : slope.at(-1)));
  };
  const sizeAtRatio = (law, flops, ratio) => {
    let x = Math.log(flops / 6 / ratio) / 2;
    if (law.token_flops) for (let i = 0; i < 8; i++) x += (Math.log(flops / ratio) - x - Math.log(perToken(law, Math.exp(x)))) / 2;
    return x;
  };
  const sizePaying = (law, flops, tokens, inference) => { // where C pays just these tokens, and those to serve
    let low = Math.log(flops / (6 * tokens + 2 * inference)) - 12, high = low + 24;
    for (let i = 0; i < 100; i++) { const x = (low + high) / 2, n = Math.exp(x); if (perToken(law, n) * tokens + 2 * n * inference < flops) low = x; else high = x; }
    return Math.exp((low + high) / 2);
  };
  const optimum = (law, i, flops) => { // analysis.forms.optimum: a coarse grid, then parabolas
    if (!law.token_flops && law.members.length === 1 && !others[law.members[0].form]) return closed(drawOf(law.members[0], i), flops);
    const low = sizeAtRatio(law, flops, 1e4), high = sizeAtRatio(law, flops, 0.5), at = x => logLoss(law, i, Math.exp(x), flops / perToken(law, Math.exp(x)), 0);
    let step = (high - low) / 23;
    const losses = Array.from({ length: 24 }, (_, k) => { const l = at(low + k * step); return Number.isFinite(l) ? l : 700; });
    const all = [...losses.keys()], inner = all.slice(1, -1).filter(k => losses[k] < losses[k - 1] - 1e-12 && losses[k] < losses[k + 1] - 1e-12);
    let best = low + step * (inner.length ? inner : all).reduce((least, k) => losses[k] < losses[least] ? k : least);
    for (; step > 1e-4; step *= 0.3) {
      const below = at(best - step), above = at(best + step), curvature = below - 2 * at(best) + above;
      const move = curvature > 0 ? Math.min(1, Math.max(-1, (below - above) / (2 * curvature))) : Math.sign(below - above);
      best = Math.min(high, Math.max(low, best + step * move));
    }
    return Math.exp(best);
  };
  // The root mean square distance of the forms from the average.
  const apart = (law, value, middle) => {
    if (!law.average) return 0;
    const all = law.members.reduce((sum, m) => sum + m.apart, 0);
    if (!all) return 0;
    return Math.sqrt(law.members.reduce((sum, m) => sum + m.apart / all * (value({ ...law, members: [{ ...m, weight: 1 }] }) - middle) ** 2, 0));
  };
  const repeating = (law, unique) => unique ? { ...law, alone: law.average, members: law.members.filter(m => law.average || m.form === "chinchilla").map(m => m.form === "chinchilla" ? { ...m, weight: 1 } : { ...m, weight: 0 }) } : law;

  const sizesOf = (law, asked) => {
    const free = optimum(law, null, asked.flops), found = [];
    for (let i = 0; i < law.grid; i++) found.push(free * 10 ** (-4 + 6 * i / (law.grid - 1)));
    if (asked.unique) { const edge = sizePaying(law, asked.flops, asked.unique, asked.inference); if (edge > found[0] && edge < 1.02 * found.at(-1)) found.push(edge); }
    const tokens = n => (asked.flops - 2 * n * asked.inference) / perToken(law, n);
    return found.sort((a, b) => a - b).map(n => [n, tokens(n)]).filter(([, d]) => d > 0);
  };
  const bestOf = (law, i, pairs, asked) => {
    let best = null, least = Infinity;
    for (const pair of pairs) { const l = logLoss(law, i, pair[0], pair[1], asked.unique); if (l < least) { least = l; best = pair; } }
    return best;
  };

  const away = ({ region }, n, d) => { // analysis.laws.region: the error of shapes away from the frontier
    if (!region) return 0;
    const at = Math.log(n / region.params) - region.a * Math.log(6 * n * d / region.flops), [below, above] = region.growth;
    return Math.max(region.low - at, 0) * below + Math.max(at - region.high, 0) * above;
  };
  const forecast = (law, n, d, unique) => {
    const middle = logLoss(law, null, n, d, unique), point = Math.exp(middle);
    const errors = sorted(drawn(law, i => logLoss(law, i, n, d, unique) - middle));
    let below = 0;
    for (const v of errors) below += (v < 0) + (v <= 0);
    const bias = Math.min(1, Math.max(-1, ndtri(below / 2 / errors.length)));
    const [under, over] = [-1, 1].map(sign => Math.max(sign * atShare(errors, ndtr(bias + bias + sign * (unique ? law.z_repeated : law.z))), 0));
    const single = law.noise.sd * Math.max(point / law.noise.least, 1) ** law.noise.growth;
    const distance = Math.max(Math.log(6 * n * d / law.reach), 0), steps = [[0, 0], ...law.knots], last = steps.at(-1);
    let tau = 0;
    if (steps.length > 1 && distance > last[0]) tau = last[1] * (distance / last[0]) ** 2;
    else for (let i = 1; i < steps.length; i++) if (distance <= steps[i][0]) {
      const [h0, t0] = steps[i - 1], [h1, t1] = steps[i]; tau = t0 + (t1 - t0) * (distance - h0) / (h1 - h0); break;
    }
    const fresh = law.alone ? 0 : unique; // of one form of an average the others may know no repetition
    const forms = apart(law, one => logLoss(one, null, n, d, fresh), law.alone ? logLoss(law, null, n, d, 0) : middle);
    const spread = law.normal * Math.hypot(single, Math.max(tau, law.least_error * distance), forms, away(law, n, d));
    return [point, point * Math.exp(-Math.hypot(under, spread)), point * Math.exp(Math.hypot(over, spread))];
  };

  // analysis.planning.shape: trained or nearly so, near N*, as good as N* at the budget; d_ff fills gaps between widths.
  const named = ([layers, width, n, c, body, trained, off, ff, family]) => ({ layers, width, n, c, body, trained, ff, off, ffn: Math.abs(Math.log(ff / family)) });
  const moved = (row, target) => {
    const [layers, width, n, c, body, trained, off, ff, family, step, least, most, perN, perC, perBody] = row;
    const k = Math.min(most, Math.max(least, Math.round((target - n) / perN)));
    return named([layers, width, n + k * perN, c + k * perC, body + k * perBody, trained && !k, off, ff + k * step, family]);
  };
  const chosen = (law, target, asked) => {
    const tokens = (n, c) => (asked.flops - 2 * n * asked.inference) / c, away = s => Math.abs(Math.log(s.n / target));
    const at = (n, c) => Math.exp(logLoss(law, null, n, tokens(n, c), asked.unique)), best = at(target, perToken(law, target));
    const least = (all, key) => all.reduce((a, b) => key(b) < key(a) ? b : a);
    const pick = usable => {
      const near = usable.filter(s => Math.abs(s.n / target - 1) <= law.near).map(s => ({ ...s, extra: at(s.n, s.c) - best }));
      if (!near.length) return [null, false];
      const good = near.filter(s => s.extra <= law.no_loss);
      if (!good.length) return [least(near, s => s.extra), false];
      return [least(good, s => (s.trained ? 0 : 100) + s.off + s.ffn + away(s)), true];
    };
    for (const span of law.spans) {
      const rows = law.shapes.filter(row => row[2] >= target / span && row[2] <= target * span);
      const pays = s => tokens(s.n, s.c) > 0;
      let usable = rows.map(named).filter(pays), [found, good] = pick(usable);
      if (usable.length && !good) { usable = [...usable, ...rows.map(row => moved(row, target)).filter(pays)]; [found] = pick(usable); }
      if (usable.length) return found || least(usable, away);
    }
    return null;
  };
  const batchOf = (rule, body) => rule.context * 2 ** Math.max(0, Math.round(Math.log2(rule.base * Math.max(1, body / rule.params) ** rule.exponent / rule.context)));

  const plan = (whole, stated) => {
    const free = whole.average && stated.unique && !stated.inference ? optimum(whole, null, stated.flops) : 0;
    const repeats = !free || stated.flops / perToken(whole, free) > stated.unique; // else no token is seen twice
    const asked = repeats ? stated : { ...stated, unique: 0 };
    const law = repeating(whole, asked.unique), plain = !asked.unique && !asked.inference, tails = [(1 - law.level) / 2, (1 + law.level) / 2];
    const tokens = n => (asked.flops - 2 * n * asked.inference) / perToken(law, n);
    let n, interval, tokensInterval;
    if (plain) {
      n = optimum(law, null, asked.flops);
      const drawnSizes = drawn(law, i => optimum(law, i, asked.flops));
      const ends = (of, value) => {
        const ordered = sorted(drawnSizes.map(of));
        if (!law.average) return tails.map(t => atShare(ordered, t));
        const half = law.normal * apart(law, one => Math.log(of(optimum(one, null, asked.flops))), Math.log(value));
        return tails.map((t, side) => value * Math.exp((side ? 1 : -1) * Math.hypot(Math.log(atShare(ordered, t) / value), half)));
      };
      interval = ends(m => m, n);
      tokensInterval = ends(tokens, tokens(n));
    } else {
      const pairs = sizesOf(law, asked), best = bestOf(law, null, pairs, asked);
      if (!best) return null;
      n = best[0];
      const ends = sorted(Array.from({ length: Math.min(law.most, drawCount(law)) }, (_, i) => bestOf(law, i, pairs, asked)[0]));
      interval = tails.map(t => atShare(ends, t));
      tokensInterval = interval.map(tokens).reverse();
    }
    const best = { params: n, interval, tokens: tokens(n), tokens_interval: tokensInterval };
    let shape = null, d = best.tokens, cost = perToken(law, n);
    if (law.shapes.length) {
      shape = chosen(law, n, asked);
      if (!shape) return { optimum: best, shape };
      n = shape.n; cost = shape.c; d = (asked.flops - 2 * n * asked.inference) / cost;
      if (law.batch) { const batch = batchOf(law.batch, shape.body); d = Math.max(1, Math.floor(d * (1 + 1e-12) / batch)) * batch; }
    }
    const speed = asked.speedAt(best.params), hours = cost * d / speed / 3600;
    return { optimum: best, shape, params: n, tokens: d, flops: cost * d, loss: forecast(law, n, d, asked.unique), hours, money: hours * asked.price,
      epochs: stated.unique ? d / stated.unique : null, beyond: (law.token_flops ? cost * d : 6 * n * d) / law.largest };
  };
  const NEAREST = 6; // cells nearest in size whose speed is taken, as analysis.runs.study does
  const measured = (law, n) => {
    const near = law.speeds.map(([size, speed], i) => [Math.abs(Math.log(size / n)), i, speed]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).slice(0, NEAREST);
    return atShare(sorted(near.map(one => one[2])), law.speed_quantile);
  };
  const bought = (law, hours, speedAt) => { // a measured speed depends on N, and N on C
    let speed = speedAt(law.start || 1e9);
    for (let i = 0; i < 4; i++) speed = speedAt(optimum(law, null, hours * 3600 * speed));
    return hours * 3600 * speed;
  };
  return { plan, measured, bought };
})();

(() => {
  const data = document.getElementById("planner-law");
  if (!data) return;
  const law = JSON.parse(data.textContent), form = document.getElementById("planner"), out = document.getElementById("planned");
  const show = (v, digits = 4) => v === null || !isFinite(v) ? "–" : v >= 1e5 || v < 1e-3 ? v.toExponential(digits - 1).replace("e+", "e") : String(+v.toPrecision(digits));
  const between = ends => ` [${ends.map(v => show(v)).join(", ")}]`;
  const number = name => { const v = parseFloat(form.elements[name]?.value); return isFinite(v) && v > 0 ? v : 0; };
  const put = (name, value) => { form.elements[name].value = value ? String(+value.toPrecision(6)) : ""; };
  const speedOf = () => {
    if (form.elements.device.value === "measured") return n => planner.measured(law, n);
    const speed = number("speed") * (number("utilisation") || 1);
    return () => speed;
  };
  // The budget is stated by the field that was written in last; the others then show what it comes to.
  const flopsOf = (name, speedAt) => {
    if (name === "flops" && number("flops")) return number("flops");
    if (name === "hours" && number("hours") && speedAt(1e9)) return planner.bought(law, number("hours"), speedAt);
    if (name === "money" && number("money") && number("price") && speedAt(1e9)) return planner.bought(law, number("money") / number("price"), speedAt);
    return 10 ** number("log_flops");
  };
  const warningsOf = (flops, found) => {
    const texts = [];
    if (flops > law.largest) texts.push(`${show(flops / law.largest, 3)} times beyond the largest run fitted (C = ${show(law.largest)})` + (flops > law.far * law.largest ? ": no ladder has been seen to hold so far" : ""));
    if (flops < law.smallest) texts.push(`below the smallest run fitted (C = ${show(law.smallest)}): the law was not seen to hold there`);
    if (found && law.shapes.length && !found.shape) texts.push("the family has no shape of this size: raise the budget");
    return texts;
  };
  let leader = "log_flops";
  const update = event => {
    const written = event?.target?.name, device = form.elements.device, chosen = device.selectedOptions[0];
    if (["log_flops", "flops", "hours", "money"].includes(written)) leader = written;
    if (written === "device" && chosen.dataset.peak) { form.elements.speed.value = chosen.dataset.peak; form.elements.utilisation.value = "0.4"; }
    if (written === "speed" || written === "utilisation") if (device.value === "measured") device.value = "";
    const speedAt = speedOf(), flops = flopsOf(leader, speedAt);
    const asked = { flops, unique: number("unique"), inference: number("inference"), speedAt, price: number("price") };
    const found = planner.plan(law, asked), rows = [["C, training FLOPs" + (asked.inference ? " with serving" : ""), show(flops)]];
    const speed = found ? speedAt(found.optimum.params) : speedAt(law.start || 1e9), hours = speed ? flops / speed / 3600 : 0;
    if (leader !== "log_flops") form.elements.log_flops.value = Math.log10(flops);
    if (leader !== "flops") put("flops", flops);
    if (leader !== "hours") put("hours", hours);
    if (leader !== "money") put("money", hours * asked.price);
    if (!found) rows.push(["no size", "can be trained and serve that many tokens; raise the budget"]);
    else {
      const { optimum, shape } = found;
      rows.push(["N*, parameters at the optimum", show(optimum.params) + between(optimum.interval)], ["D*, tokens at the optimum", show(optimum.tokens) + between(optimum.tokens_interval)]);
      if (found.loss) {
        if (shape) rows.push(["shape, layers x width", `${shape.layers} x ${shape.width}, d_ff ${shape.ff}` + (shape.trained ? ", trained in the study" : "")], ["N, parameters of the shape", show(found.params)]);
        rows.push(["D, tokens" + (shape ? " in whole steps" : ""), show(found.tokens) + (found.epochs > 1 ? `, ${show(found.epochs, 3)} passes` : "")],
          ["test loss, nats/token", show(found.loss[0]) + between(found.loss.slice(1))], ["of the largest C fitted", show(found.beyond, 3) + " times"]);
        if (speed) rows.push(["device hours of training", show(found.hours)]);
        if (speed && asked.price) rows.push(["cost of training", show(found.money)]);
      }
    }
    for (const text of warningsOf(flops, found)) rows.push(["warning", text]);
    out.replaceChildren(...rows.map(([what, value]) => { const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td"); head.scope = "row"; head.textContent = what; cell.textContent = value; if (what === "warning") row.className = "warning"; row.append(head, cell); return row; }));
    out.dataset.plan = JSON.stringify({ ...found, budget: flops });
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => { leader = "log_flops"; });
  update();
})();
