"""The look: our own Gradio theme, its style sheet, and the few colours that charts share. Nothing comes from outside this machine."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils.colors import Color

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "theme"
CSS = ASSETS / "prunarium.css"
LOGO = ASSETS / "logo.svg"

# Middle tones that hold 3:1 against both the light and the dark ground, so one figure serves both themes.
COLOURS: dict[str, str] = {
    "accent": "#2f9465",
    "warn": "#d9772b",
    "muted": "#8a968e",
    "dense": "#7c8a96",
    "pruned": "#d9772b",
    "recovered": "#2f9465",
}
SEQUENCE = ["#2f9465", "#d9772b", "#4c86c6", "#a96bb5", "#b8932a", "#3aa0a0", "#cc5f6b", "#7a8f3c"]
SCALE = [
    [0.0, "#16352a"],
    [0.25, "#1f6f4a"],
    [0.5, "#53a878"],
    [0.75, "#b5d8a8"],
    [1.0, "#fbf3d0"],
]  # low to high, even in lightness

BADGES = {
    "estimate": "computed from measured curves, not measured itself",
    "measured": "measured in a run on this machine",
    "precomputed demo": "measured once by the script that comes with Prunarium",
    "not measured": "no run has measured this yet",
}

_GREEN = Color(
    "#eef7f1",
    "#d8ecdf",
    "#b2d9c1",
    "#82c19d",
    "#4fa67a",
    "#2f8a5e",
    "#1f6f4a",
    "#195a3d",
    "#154831",
    "#113a28",
    "#081f15",
    "moss",
)
_GREY = Color(
    "#f7f6f2",
    "#efeee8",
    "#dfe0d8",
    "#c5c9c0",
    "#929b93",
    "#667068",
    "#4f5951",
    "#39423c",
    "#1d2621",
    "#161d19",
    "#0f1512",
    "lichen",
)


def theme() -> gr.themes.Base:
    """Calm paper and ink by day, deep green-black by night; text and controls meet WCAG AA in both."""
    base = gr.themes.Base(
        primary_hue=_GREEN,
        secondary_hue=_GREEN,
        neutral_hue=_GREY,
        radius_size=gr.themes.sizes.radius_md,
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"),
    )
    return base.set(**_ground(), **_controls())


def _ground() -> dict[str, str]:
    return {
        "body_background_fill": "*neutral_50",
        "body_background_fill_dark": "*neutral_950",
        "body_text_color": "#1b2620",
        "body_text_color_dark": "#e6ece7",
        "body_text_color_subdued": "#56625a",
        "body_text_color_subdued_dark": "#a3b1a8",
        "background_fill_primary": "#ffffff",
        "background_fill_primary_dark": "*neutral_900",
        "background_fill_secondary": "*neutral_50",
        "background_fill_secondary_dark": "*neutral_800",
        "border_color_primary": "#dcded5",
        "border_color_primary_dark": "#2b362f",
        "border_color_accent": "*primary_600",
        "border_color_accent_dark": "*primary_400",
        "color_accent": "*primary_600",
        "color_accent_soft": "*primary_50",
        "color_accent_soft_dark": "#173426",
        "link_text_color": "*primary_700",
        "link_text_color_dark": "*primary_300",
        "link_text_color_hover": "*primary_800",
        "link_text_color_hover_dark": "*primary_200",
        "link_text_color_visited": "*primary_700",
        "link_text_color_visited_dark": "*primary_300",
        "block_background_fill": "#ffffff",
        "block_background_fill_dark": "*neutral_900",
        "block_border_width": "1px",
        "block_border_width_dark": "1px",
        "block_shadow": "none",
        "block_radius": "10px",
        "block_label_background_fill": "transparent",
        "block_label_background_fill_dark": "transparent",
        "block_label_border_width": "0px",
        "block_label_border_width_dark": "0px",
        "block_label_text_color": "*body_text_color_subdued",
        "block_label_text_color_dark": "*body_text_color_subdued",
        "block_title_text_color": "#3b463f",
        "block_title_text_color_dark": "#c8d2cb",
        "block_title_text_weight": "600",
        "block_info_text_color": "*body_text_color_subdued",
        "block_info_text_color_dark": "*body_text_color_subdued",
        "panel_background_fill": "transparent",
        "panel_background_fill_dark": "transparent",
        "layout_gap": "16px",
        "form_gap_width": "0px",
    }


def _controls() -> dict[str, str]:
    return {
        "input_background_fill": "#fbfbf8",
        "input_background_fill_dark": "#111814",
        "input_border_color": "#8b958d",
        "input_border_color_dark": "#5d6a62",
        "input_border_width": "1px",
        "input_border_width_dark": "1px",
        "input_border_color_focus": "*primary_600",
        "input_border_color_focus_dark": "*primary_400",
        "input_placeholder_color": "#66716a",
        "input_placeholder_color_dark": "#93a198",
        "slider_color": "*primary_600",
        "slider_color_dark": "*primary_400",
        "loader_color": "*primary_600",
        "loader_color_dark": "*primary_400",
        "checkbox_border_color": "#7d8880",
        "checkbox_border_color_dark": "#76857c",
        "checkbox_background_color_selected": "*primary_600",
        "checkbox_background_color_selected_dark": "*primary_500",
        "checkbox_label_text_color_selected": "#1b2620",
        "checkbox_label_text_color_selected_dark": "#e6ece7",
        "checkbox_label_background_fill_selected": "*primary_50",
        "checkbox_label_background_fill_selected_dark": "#173426",
        "checkbox_label_border_color_selected": "*primary_600",
        "checkbox_label_border_color_selected_dark": "*primary_500",
        "button_primary_background_fill": "*primary_600",
        "button_primary_background_fill_dark": "*primary_400",
        "button_primary_background_fill_hover": "*primary_700",
        "button_primary_background_fill_hover_dark": "*primary_300",
        "button_primary_text_color": "#ffffff",
        "button_primary_text_color_dark": "#06140d",
        "button_primary_text_color_hover": "#ffffff",
        "button_primary_text_color_hover_dark": "#06140d",
        "button_secondary_background_fill": "#ffffff",
        "button_secondary_background_fill_dark": "*neutral_800",
        "button_secondary_background_fill_hover": "*neutral_100",
        "button_secondary_background_fill_hover_dark": "*neutral_700",
        "button_secondary_border_color": "#8b958d",
        "button_secondary_border_color_dark": "#5d6a62",
        "button_border_width": "1px",
        "button_cancel_background_fill": "#ffffff",
        "button_cancel_background_fill_dark": "*neutral_800",
        "button_cancel_background_fill_hover": "#fbeee3",
        "button_cancel_background_fill_hover_dark": "#3a2415",
        "button_cancel_border_color": "#a8540f",
        "button_cancel_border_color_dark": "#f0a35a",
        "button_cancel_text_color": "#8f450a",
        "button_cancel_text_color_dark": "#f4b67c",
        "button_large_radius": "8px",
        "button_medium_radius": "8px",
        "button_small_radius": "8px",
        "table_even_background_fill": "#ffffff",
        "table_even_background_fill_dark": "*neutral_900",
        "table_odd_background_fill": "*neutral_50",
        "table_odd_background_fill_dark": "#131a16",
        "table_border_color": "#dcded5",
        "table_border_color_dark": "#2b362f",
    }


def badge(kind: str) -> str:
    """Where a figure comes from, as a small HTML label: one of BADGES. Raises KeyError on any other word, so no one's text gets in."""
    return f'<span class="badge badge-{kind.split()[0]}" title="{BADGES[kind]}">{kind}</span>'
