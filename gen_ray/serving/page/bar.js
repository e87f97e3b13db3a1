/** The button that does it, the one that stops it, how far it is, and one line on how it went. */

import { h } from "./dom.js";
import { many } from "./say.js";

/** One piece of work that can be started, started over and stopped. */
export class Bar {
  /**
   * @param {string} label of the button
   * @param {(tools: {signal, busy, progress}) => Promise<string>} work returns the line to end with
   */
  constructor(label, work) {
    this.work = work;
    this.running = null;
    this.button = h("button.primary", { type: "submit" }, label);
    this.stopper = h("button", { type: "button", hidden: true, onclick: () => this.stop() }, "Stop");
    this.meter = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Network evaluations done" });
    this.count = h("span.count", { "aria-hidden": "true" });
    this.status = h("p.status", { role: "status", "aria-live": "polite" });
    this.trouble = h("p.trouble", { role: "alert" });
    const under = h("div.under", {}, this.meter, this.count);
    this.element = h("div.bar", {}, h("div.buttons", {}, this.button, this.stopper, this.status), under, this.trouble);
  }

  /** Begin, in place of what runs: the bar's own work or another that it is to tell of. */
  async start(work = this.work) {
    this.running?.abort();
    const own = (this.running = new AbortController());
    this.done = null;
    this.tell("");
    this.stopper.hidden = false;
    try {
      const line = await work({
        signal: own.signal,
        busy: (seconds) => this.tell(`The server is busy; trying again in ${seconds} s.`),
        progress: (done, total) => own === this.running && this.progress(done, total),
      });
      if (own === this.running) this.tell(line);
    } catch (error) {
      if (own === this.running) this.fail(error, own.signal);
    } finally {
      if (own === this.running) this.rest();
    }
  }

  /** Give up what runs; the server notices within one network evaluation. */
  stop() {
    this.running?.abort();
  }

  progress(done, total) {
    this.done = [done, total];
    if (this.status.textContent) this.tell("");
    this.meter.hidden = false;
    this.meter.max = total;
    this.meter.value = done;
    this.count.textContent = `${done} / ${total}`;
  }

  /** Say a line, or why there is none. */
  tell(line, trouble = "") {
    this.status.textContent = line;
    this.trouble.textContent = trouble;
  }

  fail(error, signal) {
    if (signal?.aborted) {
      this.tell(this.done ? `Stopped after ${this.done[0]} of ${many(this.done[1], "evaluation")}.` : "Stopped.");
    } else {
      this.tell("", error.requestId ? `${error.message} (request ${error.requestId})` : error.message);
      if (!("status" in error)) throw error; // the page's own mistake: the console has its place
    }
  }

  rest() {
    this.running = null;
    this.stopper.hidden = this.meter.hidden = true;
    this.count.textContent = "";
  }
}
