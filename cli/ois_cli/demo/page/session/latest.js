// One request at a time, then the newest one: for previews that follow the pointer.

/**
 * run(input, signal) -> promise. An input that arrives during a run waits, and replaces the one
 * that waited. The current run may finish, so that previews appear while the pointer moves; but it
 * is cancelled if it takes longer than `patience` ms and a newer input waits.
 */
export class Latest {
  #run;
  #patience;
  #waiting = null;
  #current = null;

  constructor(run, patience) {
    this.#run = run;
    this.#patience = patience;
  }

  request(input) {
    this.#waiting = { input };
    if (!this.#current) this.#next();
    else if (performance.now() - this.#current.began > this.#patience) this.#current.abort.abort();
  }

  /** Cancel the current run and the waiting input. */
  stop() {
    this.#waiting = null;
    this.#current?.abort.abort();
  }

  async #next() {
    while (this.#waiting) {
      const { input } = this.#waiting;
      const current = { abort: new AbortController(), began: performance.now() };
      this.#waiting = null;
      this.#current = current;
      try {
        await this.#run(input, current.abort.signal);
      } catch {
        // A failed preview is not shown; the click itself will report the error.
      }
      this.#current = null;
    }
  }
}
