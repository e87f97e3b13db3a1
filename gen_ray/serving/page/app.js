/** The page: selection of model, seed and tab. The tabs implement everything else. */

import * as api from "./api.js";
import { face, roll } from "./dice.js";
import { guard } from "./door.js";
import { h } from "./dom.js";
import { Easel } from "./easel.js";
import * as link from "./link.js";
import { mediumOf } from "./medium.js";
import { facts } from "./say.js";
import { compare } from "./tabs/compare.js";
import { draw } from "./tabs/draw.js";
import { fill } from "./tabs/fill.js";
import { latent } from "./tabs/latent.js";
import { score } from "./tabs/score.js";

const TABS = [draw, fill, latent, score, compare];
const GOES = { impute: fill, encode: latent, score };
const on = Object.fromEntries(["model", "seed", "dice", "facts", "trouble", "tabs", "main"].map((id) => [id, document.getElementById(id)]));
const easel = new Easel();
let cards = [];
let card = null;
let tab = null;
let panels = new Map();

/** Return whether a tab supports the model. Data that are neither pictures nor texts can only be drawn and compared. */
function fits({ verb, id }) {
  const seen = mediumOf(card).kind !== "numbers" || id === "draw" || id === "compare";
  return card.verbs.includes(verb) && seen && (id !== "latent" || card.latent_dim);
}

/** Return the seed of the input field. */
function seed() {
  return Number(on.seed.value);
}

function showSeed(value) {
  on.seed.value = value;
  on.dice.replaceChildren(face(value));
}

/** Return the context that is passed to the tabs. */
function context() {
  return {
    card, cards, easel, seed,
    carry: (verb, sample, id = card.id) => carry(GOES[verb], sample, id),
    submits: (bar) => (event) => {
      event.preventDefault();
      if (on.seed.reportValidity()) bar.start();
    },
  };
}

/** Open another tab with a sample of a model. */
async function carry(to, sample, id) {
  if (id !== card.id) choose(id);
  open(to);
  await panels.get(to).take(sample);
}

/** Switch to another model. The tabs are rebuilt, because their settings belong to the previous model. */
function choose(id) {
  for (const panel of panels.values()) panel.close();
  panels = new Map();
  card = cards.find((other) => other.id === id);
  on.model.value = id;
  on.facts.textContent = facts(card);
  on.trouble.textContent = card.trouble ?? "";
  if (mediumOf(card).kind === "picture") easel.fit(card.data.shape);
  on.tabs.replaceChildren(...TABS.filter(fits).map(handle));
  link.write({ model: id });
}

function handle(one) {
  const own = { id: `tab-${one.id}`, type: "button", role: "tab", "aria-controls": "main", onclick: () => open(one) };
  return h("button", own, h("span", {}, one.title), h("i", { "aria-hidden": "true" }, one.formula));
}

function open(one) {
  tab = one;
  if (!panels.has(one)) panels.set(one, one.build(context()));
  for (const button of on.tabs.children) {
    const own = button.id === `tab-${one.id}`;
    button.setAttribute("aria-selected", String(own));
    button.tabIndex = own ? 0 : -1;
  }
  on.main.setAttribute("aria-labelledby", `tab-${one.id}`);
  on.main.replaceChildren(panels.get(one).element);
  panels.get(one).enter?.();
  link.write({ tab: one.id });
  document.title = `${one.title} · ${card.id} · gen_ray`;
}

/** Show the state in the link. A link with model and seed to a shared tab starts the run. */
function follow() {
  const said = link.read();
  const ready = cards.filter((one) => one.ready);
  const meant = ready.find((one) => one.id === said.model);
  if (!ready.length) {
    on.trouble.textContent = cards.length ? "No model is ready yet; reload the page in a while." : "No model is served here.";
    return;
  }
  showSeed(link.whole("seed", 0, Number.MAX_SAFE_INTEGER, 0));
  link.write({ seed: seed() });
  choose((meant ?? ready[0]).id);
  if (said.model && !meant) on.trouble.textContent = "The link is to a model that is not served here.";
  open(TABS.filter(fits).find((one) => one.id === said.tab) ?? TABS.find(fits));
  if (meant && said.seed && tab.shared) panels.get(tab).run();
}

function listen() {
  on.model.onchange = () => {
    link.write({ sampler: null, steps: null, with: null, with_sampler: null, with_steps: null });
    choose(on.model.value);
    open(fits(tab) ? tab : TABS.find(fits));
  };
  on.seed.oninput = () => {
    link.write({ seed: on.seed.value });
    on.dice.replaceChildren(face(seed()));
  };
  on.seed.onkeydown = (event) => event.key === "Enter" && panels.get(tab).run();
  on.dice.onclick = () => {
    showSeed(roll());
    link.write({ seed: on.seed.value });
    if (tab.shared || tab === latent) panels.get(tab).run();
  };
  on.tabs.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const able = TABS.filter(fits);
    open(able[(able.indexOf(tab) + by + able.length) % able.length]);
    document.getElementById(`tab-${tab.id}`).focus();
  };
  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => event.key === "Escape" && panels.get(tab)?.close());
}

async function start() {
  guard();
  try {
    cards = await api.models({ busy: (seconds) => (on.trouble.textContent = `The server is busy; trying again in ${seconds} s.`) });
  } catch (error) {
    on.trouble.textContent = `${error.message} Reload the page to try again.`;
    return;
  }
  on.trouble.textContent = "";
  on.model.replaceChildren(...cards.map(({ id, ready }) => h("option", { value: id, disabled: !ready }, ready ? id : `${id} (not ready)`)));
  follow();
  listen();
}

start();
