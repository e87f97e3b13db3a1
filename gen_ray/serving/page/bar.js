/** A start button, a stop button, a progress bar and a status line for one task. */

import { h } from "./dom.js";
import { many } from "./say.js";

/** A task that can be started, restarted and stopped. */
export class Bar {
  /**
   * @param {string} label of the button
   * @param {(tools: {signal, busy, progress}) => Promise<string>} work returns the final status line
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

  /** Start the bar's own work or another one, and cancel what is running. */
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

  /** Cancel the running work; the server stops it within one network evaluation. */
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

  /** Show a status line and an error message. */
  tell(line, trouble = "") {
    this.status.textContent = line;
    this.trouble.textContent = trouble;
  }

  fail(error, signal) {
    if (signal?.aborted) {
      this.tell(this.done ? `Stopped after ${this.done[0]} of ${many(this.done[1], "evaluation")}.` : "Stopped.");
    } else {
      this.tell("", error.requestId ? `${error.message} (request ${error.requestId})` : error.message);
      if (!("status" in error)) throw error; // an error of the page itself: show it in the console
    }
  }

  rest() {
    this.running = null;
    this.stopper.hidden = this.meter.hidden = true;
    this.count.textContent = "";
  }
}
