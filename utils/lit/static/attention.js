// The page of attention beside LIT's: it asks the server for what it draws, and shows texts as text.
"use strict";

const at = id => document.getElementById(id);
const CELL = { least: 4, most: 22, labels: 110 };  // pixels
let read = null, weights = null;  // what the server said of the text, and of the chosen head
let latest = 0;  // number of the last question about a head; answers to earlier ones are dropped

async function ask(question, body) {
  at("error").textContent = "";
  const answer = await fetch(`attention/${question}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body || {}),
  });
  if (!answer.ok) {
    at("error").textContent = await answer.text();
    throw new Error(at("error").textContent);
  }
  return answer.json();
}

const text = () => ({ model: at("model").value, text: at("text").value, second: at("second").value });

function fill(select, names) {
  const chosen = select.value;
  select.replaceChildren(...names.map(([value, name]) => new Option(name, value)));
  if (names.some(([value]) => String(value) === chosen)) select.value = chosen;
}

const shade = (rgb, share) => `rgba(${rgb}, ${Math.min(1, share).toFixed(3)})`;
const BLUE = "31, 119, 180", ORANGE = "230, 120, 20", VIOLET = "82, 45, 168";

async function readText() {
  read = { ...(await ask("read", text())), text: text() };
  at("results").hidden = false;
  at("score").textContent = `${read.explained} ${read.score.toFixed(3)}`;
  const numbers = count => [...Array(count).keys()].map(n => [n, n]);
  fill(at("layer"), numbers(read.layers));
  fill(at("head"), [["", "mean of all"], ...numbers(read.heads)]);
  const largest = Math.max(...read.rollout.values);
  at("rollout").replaceChildren(...read.rollout.tokens.map((token, i) => {
    const chip = document.createElement("span");
    chip.className = "token";
    chip.textContent = token;
    chip.title = read.rollout.values[i].toFixed(4);
    chip.style.background = shade(VIOLET, 0.7 * read.rollout.values[i] / largest);
    return chip;
  }));
  at("heads").replaceChildren();
  at("strongest").textContent = "";
  await showHead();
}

async function showHead() {
  const number = ++latest, head = at("head").value;
  const chosen = { layer: Number(at("layer").value), head: head === "" ? null : Number(head) };
  const answer = await ask("head", { ...read.text, ...chosen });
  if (number !== latest) return;
  weights = answer.weights;
  at("under").textContent = "";
  draw();
  for (const cell of at("heads").querySelectorAll("td"))
    cell.classList.toggle("chosen", cell.title.startsWith(`layer ${chosen.layer}, head ${chosen.head}:`));
}

function draw() {
  const count = read.tokens.length, canvas = at("matrix"), context = canvas.getContext("2d");
  const side = Math.max(CELL.least, Math.min(CELL.most, Math.floor(900 / count)));
  const labels = side >= 10 ? CELL.labels : 0;
  canvas.side = side;
  canvas.labels = labels;
  canvas.width = canvas.height = labels + side * count;
  context.font = `${Math.min(12, side)}px Roboto, sans-serif`;
  context.textBaseline = "middle";
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      context.fillStyle = shade(BLUE, Math.sqrt(weights[i][j]));  // the root shows small ones
      context.fillRect(labels + j * side, labels + i * side, side - 0.5, side - 0.5);
    }
    if (!labels) continue;
    context.fillStyle = "#3c4043";
    context.textAlign = "right";
    context.fillText(read.tokens[i], labels - 4, labels + (i + 0.5) * side, labels - 4);
    context.save();
    context.translate(labels + (i + 0.5) * side, labels - 4);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(read.tokens[i], 0, 0, labels - 4);
    context.restore();
  }
}

function under(event) {
  const { side, labels } = at("matrix");
  const [j, i] = [event.offsetX, event.offsetY].map(place => Math.floor((place - labels) / side));
  const share = weights?.[i]?.[j];
  at("under").textContent = share === undefined ? "" : `${read.tokens[i]} → ${read.tokens[j]}: ${share.toFixed(3)}`;
}

async function measure() {
  at("measure").disabled = true;
  at("strongest").textContent = "masking …";
  try {
    const { effects, strongest } = await ask("effects", read.text);
    const largest = Math.max(...effects.flat().map(Math.abs)) || 1;
    const name = (layer, head) => `layer ${layer}, head ${head}: ${effects[layer][head].toFixed(4)}`;
    at("heads").replaceChildren(...effects.map((row, layer) => {
      const line = document.createElement("tr");
      line.append(...row.map((effect, head) => {
        const cell = document.createElement("td");
        cell.title = name(layer, head);
        cell.textContent = head;
        cell.style.background = shade(effect > 0 ? BLUE : ORANGE, Math.abs(effect) / largest);
        cell.onclick = () => { at("layer").value = layer; at("head").value = head; showHead(); };
        return cell;
      }));
      const label = document.createElement("th");
      label.textContent = `layer ${layer}`;
      line.prepend(label);
      return line;
    }));
    at("strongest").textContent = `largest: ${strongest.map(([layer, head]) => name(layer, head)).join(" · ")}`;
    [[at("layer").value, at("head").value]] = strongest;
    await showHead();
  } catch (error) {
    at("strongest").textContent = "";
    throw error;
  } finally {
    at("measure").disabled = false;
  }
}

const quietly = action => () => action().catch(() => {});  // the page shows what the server says
at("read").onclick = at("model").onchange = quietly(readText);
at("layer").onchange = at("head").onchange = quietly(showHead);
at("measure").onclick = quietly(measure);
at("matrix").onmousemove = under;
quietly(async () => {
  const { models, pairs } = await ask("models");
  fill(at("model"), models.map(model => [model, model]));
  at("second").hidden = !pairs;
})();
