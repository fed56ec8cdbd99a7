// The plan's first steps in the page: N, D, forecast with its interval, time and cost, from the law's
// parameters and bootstrap draws. The equations are those of analysis.planning.split and analysis.laws.law; a test
// in a browser holds the two to four digits.
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
  const loss = (member, parameters, n, d, unique, rates) => member.form === "farseer" ? farseer(parameters, n, d) : coupled(parameters, n, d, unique, rates);

  // Of an average the draws of all forms are of the same resamples; one draw stands for all.
  const drawOf = (member, i) => i === null ? member.parameters : member.draws[Math.min(i, member.draws.length - 1)];
  const drawCount = law => Math.max(...law.members.filter(m => m.weight).map(m => m.draws.length));
  const drawn = (law, of) => Array.from({ length: drawCount(law) }, (_, i) => of(i));
  const whole = law => law.members.reduce((sum, m) => sum + m.weight, 0);
  const logLoss = (law, i, n, d, unique) => law.members.reduce((sum, m) => !m.weight ? sum : sum + m.weight / whole(law) * Math.log(loss(m, drawOf(m, i), n, d, unique, law.rates)), 0);
  const optimum = (law, i, flops) => { // analysis.forms.optimum: a coarse grid, then parabolas
    if (law.members.length === 1 && law.members[0].form !== "farseer") return closed(drawOf(law.members[0], i), flops);
    const low = Math.log(flops / 6e4) / 2, high = Math.log(flops / 3) / 2, at = x => logLoss(law, i, Math.exp(x), flops / 6 / Math.exp(x), 0);
    let step = (high - low) / 23, best = low, least = Infinity;
    for (let k = 0; k < 24; k++) { const x = low + k * step, l = at(x); if (l < least) { least = l; best = x; } }
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
    return Math.sqrt(law.members.reduce((sum, m) => sum + m.apart / all * (value({ ...law, members: [{ ...m, weight: 1 }] }) - middle) ** 2, 0));
  };
  const repeating = (law, unique) => unique ? { ...law, members: law.members.filter(m => m.form === "chinchilla").map(m => ({ ...m, weight: 1 })), average: false } : law;

  const sizesOf = (law, asked) => {
    const free = optimum(law, null, asked.flops), found = [];
    for (let i = 0; i < law.grid; i++) found.push(free * 10 ** (-4 + 6 * i / (law.grid - 1)));
    if (asked.unique) { const edge = asked.flops / (6 * asked.unique + 2 * asked.inference); if (edge > found[0] && edge < 1.02 * found.at(-1)) found.push(edge); }
    const tokens = n => (asked.flops - 2 * n * asked.inference) / (6 * n);
    return found.sort((a, b) => a - b).map(n => [n, tokens(n)]).filter(([, d]) => d > 0);
  };
  const bestOf = (law, i, pairs, asked) => {
    let best = null, least = Infinity;
    for (const pair of pairs) { const l = logLoss(law, i, pair[0], pair[1], asked.unique); if (l < least) { least = l; best = pair; } }
    return best;
  };

  const forecast = (law, n, d, unique) => {
    const middle = logLoss(law, null, n, d, unique), point = Math.exp(middle);
    const errors = sorted(drawn(law, i => logLoss(law, i, n, d, unique) - middle));
    let below = 0;
    for (const v of errors) below += (v < 0) + (v <= 0);
    const bias = Math.min(1, Math.max(-1, ndtri(below / 2 / errors.length)));
    const [under, over] = [-1, 1].map(sign => Math.max(sign * atShare(errors, ndtr(bias + bias + sign * (unique ? law.z_repeated : law.z))), 0));
    const single = law.noise.sd * Math.max(point / law.noise.least, 1) ** law.noise.growth;
    const distance = Math.max(Math.log(6 * n * d / law.reach), 0), knots = [[0, 0], ...law.knots], last = knots.at(-1);
    let tau = 0;
    if (knots.length > 1 && distance > last[0]) tau = last[1] * (distance / last[0]) ** 2;
    else for (let i = 1; i < knots.length; i++) if (distance <= knots[i][0]) {
      const [h0, t0] = knots[i - 1], [h1, t1] = knots[i]; tau = t0 + (t1 - t0) * (distance - h0) / (h1 - h0); break;
    }
    const forms = apart(law, one => logLoss(one, null, n, d, unique), middle);
    const spread = law.normal * Math.hypot(single, Math.max(tau, law.least_error * distance), forms);
    return [point, point * Math.exp(-Math.hypot(under, spread)), point * Math.exp(Math.hypot(over, spread))];
  };

  const plan = (whole, asked) => {
    const law = repeating(whole, asked.unique), plain = !asked.unique && !asked.inference, tails = [(1 - law.level) / 2, (1 + law.level) / 2];
    let n, interval;
    if (plain) {
      n = optimum(law, null, asked.flops);
      const ends = sorted(drawn(law, i => optimum(law, i, asked.flops)));
      const half = law.normal * apart(law, one => Math.log(optimum(one, null, asked.flops)), Math.log(n));
      interval = tails.map((t, side) => n * Math.exp((side ? 1 : -1) * Math.hypot(Math.log(atShare(ends, t) / n), half)));
      if (!law.average) interval = tails.map(t => atShare(ends, t));
    } else {
      const pairs = sizesOf(law, asked), best = bestOf(law, null, pairs, asked);
      if (!best) return null;
      n = best[0];
      const ends = sorted(Array.from({ length: Math.min(law.most, drawCount(law)) }, (_, i) => bestOf(law, i, pairs, asked)[0]));
      interval = tails.map(t => atShare(ends, t));
    }
    const d = (asked.flops - 2 * n * asked.inference) / (6 * n), hours = 6 * n * d / (asked.speed * asked.utilisation) / 3600;
    return { params: n, interval, tokens: d, loss: forecast(law, n, d, asked.unique), hours, money: hours * asked.price,
      epochs: asked.unique ? d / asked.unique : null, beyond: 6 * n * d / law.reach };
  };
  return { plan };
})();

(() => {
  const data = document.getElementById("planner-law");
  if (!data) return;
  const law = JSON.parse(data.textContent), form = document.getElementById("planner"), out = document.getElementById("planned");
  const show = (v, digits = 4) => v === null || !isFinite(v) ? "–" : v >= 1e5 || v < 1e-3 ? v.toExponential(digits - 1).replace("e+", "e") : String(+v.toPrecision(digits));
  const between = ends => ` [${ends.map(v => show(v)).join(", ")}]`;
  const number = name => { const v = parseFloat(form.elements[name]?.value); return isFinite(v) && v > 0 ? v : 0; };
  const update = () => {
    const flops = 10 ** number("log_flops"), asked = { flops, unique: number("unique"), inference: number("inference"), speed: number("speed"), utilisation: number("utilisation") || 1, price: number("price") };
    const found = planner.plan(law, asked), rows = [["C, training FLOPs" + (asked.inference ? " with serving" : ""), show(flops)]];
    if (!found) rows.push(["no size", "can be trained and serve that many tokens; raise the budget"]);
    else {
      rows.push(["N, parameters", show(found.params) + between(found.interval)], ["D, tokens", show(found.tokens) + (found.epochs > 1 ? `, ${show(found.epochs, 3)} passes` : "")],
        ["test loss, nats/token", show(found.loss[0]) + between(found.loss.slice(1))], ["of the largest 6ND fitted", show(found.beyond, 3) + " times"]);
      if (asked.speed) rows.push(["device hours of training", show(found.hours)]);
      if (asked.speed && asked.price) rows.push(["cost of training", show(found.money)]);
    }
    out.replaceChildren(...rows.map(([what, value]) => { const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td"); head.scope = "row"; head.textContent = what; cell.textContent = value; row.append(head, cell); return row; }));
    out.dataset.plan = JSON.stringify(found);
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", event => event.preventDefault());
  update();
})();
