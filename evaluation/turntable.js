// <turn-table>: the panels of an orbit turn together, by dragging, by the arrow keys, or by themselves while they are in sight.
// Azimuths go counter-clockwise seen from above. So what faces us moves left from view to view, and a drag to the left goes on.
const VIEWS_PER_SECOND = 7;
const TURN_PER_WIDTH = 0.5;  // a drag as wide as one panel is half a turn

class TurnTable extends HTMLElement {
  connectedCallback() {
    this.stage = this.querySelector('.stage');
    this.panels = [...this.querySelectorAll('.view')];
    this.button = this.querySelector('button');
    this.views = Number(this.dataset.views);
    this.columns = Number(this.style.getPropertyValue('--columns'));
    this.rows = Number(this.style.getPropertyValue('--rows'));
    this.inSight = false;
    this.stage.onpointerdown = event => this.grab(event);
    this.stage.onkeydown = event => this.onKey(event);
    this.stage.onfocus = () => this.stage.matches(':focus-visible') && this.play(false);
    this.button.onclick = () => this.play(!this.playing);
    this.watch = new IntersectionObserver(entries => { this.inSight = entries.at(-1).isIntersecting; });
    this.watch.observe(this);
    this.clock = setInterval(() => this.playing && this.inSight && this.show(this.view + 1), 1000 / VIEWS_PER_SECOND);
    this.show(0);
    this.play(!matchMedia('(prefers-reduced-motion: reduce)').matches);
  }

  disconnectedCallback() {
    clearInterval(this.clock);
    this.watch.disconnect();
  }

  show(view) {
    this.view = ((view % this.views) + this.views) % this.views;
    for (const panel of this.panels) {
      const tile = Number(panel.dataset.first) + this.view % Number(panel.dataset.count);
      const x = tile % this.columns / Math.max(1, this.columns - 1);
      const y = Math.floor(tile / this.columns) / Math.max(1, this.rows - 1);
      panel.style.backgroundPosition = `${100 * x}% ${100 * y}%`;
    }
    const text = `azimuth ${Math.round(360 * this.view / this.views)}°, view ${this.view + 1} of ${this.views}`;
    this.querySelector('.dial span').textContent = text;
    this.stage.setAttribute('aria-valuenow', this.view);
    this.stage.setAttribute('aria-valuetext', text);
  }

  play(on) {
    this.playing = on;
    this.button.textContent = on ? 'pause' : 'turn';
  }

  grab(event) {
    if (event.button !== 0) return;
    this.play(false);
    const startX = event.clientX, startView = this.view;
    const viewsPerPixel = this.views * TURN_PER_WIDTH / this.panels.at(-1).clientWidth;
    this.stage.setPointerCapture(event.pointerId);
    this.stage.onpointermove = move => this.show(startView + Math.round((startX - move.clientX) * viewsPerPixel));
    this.stage.onpointerup = this.stage.onpointercancel = () => { this.stage.onpointermove = null; };
  }

  onKey(event) {
    const quarter = Math.round(this.views / 4);
    const to = {
      ArrowRight: this.view + 1, ArrowUp: this.view + 1, ArrowLeft: this.view - 1, ArrowDown: this.view - 1,
      PageUp: this.view + quarter, PageDown: this.view - quarter, Home: 0, End: this.views - 1,
    }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.play(false);
    this.show(to);
  }
}

customElements.define('turn-table', TurnTable);
