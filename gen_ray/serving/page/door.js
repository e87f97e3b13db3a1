/** The dialog that asks for a key. */

import * as api from "./api.js";

/** Ask whenever the server wants a key; the link in the footer forgets it again. */
export function guard() {
  const [door, line, input, forget] = ["door", "door-line", "key", "forget"].map((id) => document.getElementById(id));
  const seen = () => (forget.hidden = api.key.get() === null);
  api.askWith((refused) => {
    line.textContent = refused ? "That key was not accepted. Another?" : "This server answers to those with an API key.";
    api.key.forget();
    input.value = "";
    door.showModal();
    return new Promise((resolve) => {
      const leave = (key) => {
        door.close();
        resolve(key);
        queueMicrotask(seen);
      };
      // the form is never sent: the key belongs into a header, not into an address
      door.querySelector("form").onsubmit = (event) => (event.preventDefault(), leave(input.value.trim()));
      document.getElementById("door-cancel").onclick = () => leave(null);
      door.oncancel = () => leave(null);
    });
  });
  forget.onclick = () => (api.key.forget(), seen());
  seen();
}
