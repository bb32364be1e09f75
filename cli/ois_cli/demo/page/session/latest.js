// One request at a time, the newest wish next: for previews that follow the pointer.

/**
 * run(wish, signal) -> promise. A wish that comes while another is under way waits and replaces
 * the one that waited. What is under way is left to finish, so that a preview is seen while the
 * pointer moves, but is given up when it takes longer than `patience` ms and a newer wish waits.
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

  want(wish) {
    this.#waiting = { wish };
    if (!this.#current) this.#next();
    else if (performance.now() - this.#current.began > this.#patience) this.#current.abort.abort();
  }

  /** Give up what is under way and what waits. */
  stop() {
    this.#waiting = null;
    this.#current?.abort.abort();
  }

  async #next() {
    while (this.#waiting) {
      const { wish } = this.#waiting;
      const current = { abort: new AbortController(), began: performance.now() };
      this.#waiting = null;
      this.#current = current;
      try {
        await this.#run(wish, current.abort.signal);
      } catch {
        // A preview that fails is not shown; the click itself says what is wrong.
      }
      this.#current = null;
    }
  }
}
