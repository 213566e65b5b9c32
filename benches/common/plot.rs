//! Figures as horizontal bars or as lines in SVG, readable on a light and on a dark page.

use plotters::prelude::{Color, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle, SVGBackend, Text};

const WIDTH: i32 = 960;
const NAME_WIDTH: i32 = 430;
const FIGURE_WIDTH: i32 = 110;
const LINE: i32 = 30;
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const OTHERS: RGBColor = RGBColor(0x9a, 0x9a, 0x9a);
const INK: RGBColor = RGBColor(0x70, 0x70, 0x70);

/// A name and its figure.
pub struct Bar {
    name: String,
    value: f64,
}

impl Bar {
    pub fn new(name: &str, value: f64) -> Self {
        Self { name: name.to_owned(), value }
    }
}

/// One bar a line, longest as wide as the picture allows; those of Tallyguard stand out.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let lines = i32::try_from(bars.len()).expect("few bars") + 1;
    let mut svg = String::new();
    {
        let size = (WIDTH.unsigned_abs(), (lines * LINE + LINE / 2).unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let heading = ("sans-serif", 18).into_font().color(&INK);
        let text = ("sans-serif", 14).into_font().color(&INK);
        area.draw(&Text::new(title.to_owned(), (4, 6), heading)).expect("text in memory");
        for (line, bar) in (1..).zip(bars) {
            let top = line * LINE + 4;
            let room = f64::from(WIDTH - NAME_WIDTH - FIGURE_WIDTH);
            #[allow(clippy::cast_possible_truncation, reason = "a number of pixels")]
            let end = NAME_WIDTH + (bar.value / longest * room).round() as i32;
            let color = if bar.name.starts_with("Tallyguard") { OURS } else { OTHERS };
            let bounds = [(NAME_WIDTH, top), (end.max(NAME_WIDTH + 1), top + LINE - 10)];
            area.draw(&Text::new(bar.name.clone(), (4, top + 3), text.clone())).expect("text in memory");
            area.draw(&Rectangle::new(bounds, color.filled())).expect("a bar in memory");
            area.draw(&Text::new(figure(bar.value), (end + 8, top + 3), text.clone())).expect("text in memory");
        }
        area.present().expect("a picture in memory");
    }
    svg
}

const COLORS: [RGBColor; 4] =
    [OURS, RGBColor(0xd6, 0x27, 0x28), RGBColor(0x2c, 0xa0, 0x2c), RGBColor(0x94, 0x67, 0xbd)];
const HEIGHT: i32 = 300;
const LEFT: i32 = 20;
/// Room above for the title and the names of the lines, and below for the horizontal axis.
const TOP: i32 = 70;
const BOTTOM: i32 = HEIGHT - 30;

/// Each line with its name, from zero up; at each point stands its figure.
pub fn lines(title: &str, lines: &[(&str, Vec<(f64, f64)>)]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let widest = points().map(|(x, _)| x).fold(f64::MIN_POSITIVE, f64::max);
    let highest = points().map(|(_, y)| y).fold(f64::MIN_POSITIVE, f64::max);
    #[allow(clippy::cast_possible_truncation, reason = "a number of pixels")]
    let place = |(x, y): (f64, f64)| {
        let right = f64::from(WIDTH - FIGURE_WIDTH - LEFT) * x / widest;
        (LEFT + right.round() as i32, BOTTOM - (f64::from(BOTTOM - TOP) * y / highest).round() as i32)
    };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs())).into_drawing_area();
        let heading = ("sans-serif", 18).into_font().color(&INK);
        let text = ("sans-serif", 12).into_font();
        area.draw(&Text::new(title.to_owned(), (4, 6), heading)).expect("text in memory");
        area.draw(&PathElement::new([(LEFT, BOTTOM), (WIDTH - FIGURE_WIDTH, BOTTOM)], INK)).expect("an axis in memory");
        for (x, _) in lines.first().into_iter().flat_map(|(_, points)| points) {
            let (at, _) = place((*x, 0.0));
            area.draw(&Text::new(figure(*x), (at - 8, BOTTOM + 8), text.color(&INK))).expect("text in memory");
        }
        for (number, ((name, points), color)) in (0..).zip(lines.iter().zip(COLORS)) {
            let path: Vec<_> = points.iter().map(|&point| place(point)).collect();
            area.draw(&Text::new((*name).to_owned(), (LEFT + number * 200, 34), text.color(&color))).expect("text");
            for (&(x, y), &(_, value)) in path.iter().zip(points) {
                area.draw(&Text::new(figure(value), (x - 8, y - 16), text.color(&color))).expect("text in memory");
            }
            area.draw(&PathElement::new(path, color.stroke_width(2))).expect("a line in memory");
        }
        area.present().expect("a picture in memory");
    }
    svg
}

fn figure(value: f64) -> String {
    if value >= 1_000.0 { super::whole(value) } else { format!("{value:.1}") }
}
