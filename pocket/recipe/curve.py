"""The loss curve as a picture: an SVG of a few lines."""

from __future__ import annotations

from pathlib import Path

from .train import Point

WIDTH, HEIGHT, EDGE = 720, 400, 48


def draw(history: list[Point], path: Path, title: str) -> None:
    """Loss over tokens, with dots where the held-out loss was measured."""
    shown = [p for p in history if p.loss == p.loss]
    if not shown:
        return
    most = max(p.tokens for p in shown)
    losses = [p.loss for p in shown] + [p.held_out for p in shown if p.held_out is not None]
    low, high = min(losses), max(losses)

    def x(tokens: float) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * tokens / most

    def y(loss: float) -> float:
        return HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (loss - low) / max(high - low, 1e-9)

    line = " ".join(f"{x(p.tokens):.1f},{y(p.loss):.1f}" for p in shown)
    dots = [(x(p.tokens), y(p.held_out)) for p in shown if p.held_out is not None]
    ticks = [low + (high - low) * i / 5 for i in range(6)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="15">{title}</text>',
        *(
            f'<path d="M{EDGE} {y(t):.1f}H{WIDTH - EDGE}" stroke="#ddd"/>'
            f'<text x="{EDGE - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.2f}</text>'
            for t in ticks
        ),
        *(
            f'<text x="{x(most * i):.1f}" y="{HEIGHT - EDGE + 18}" text-anchor="middle">{most * i / 1e6:.1f}M</text>'
            for i in (0, 0.25, 0.5, 0.75, 1)
        ),
        f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="1.5"/>',
        *(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="#d62728"/>' for a, b in dots),
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">tokens (line: training, dots: held out)</text>',
        "</svg>",
    ]
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")
