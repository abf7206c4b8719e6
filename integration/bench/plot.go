package main

import (
	"bytes"
	"fmt"
	"math"
)

// Sizes of the picture, in its units.
const (
	plotWidth, plotHeight       = 720, 400
	plotLeft, plotRight         = 64, 130
	plotTop, plotBottom         = 28, 48
	plotInnerW, plotInnerH      = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
	lowestMs, highestMs         = 0.1, 1000.0 // of the vertical axis, which is logarithmic
	dark, grey, blue, orange    = "#222", "#bbb", "#1f5fa8", "#c05a00"
	solid, dashed               = "none", "5 4"
	fontSize, pointRadius, line = 12, 2.5, 1.6
)

// plot draws latency against load, as SVG.
func plot(c curveReport) []byte {
	var b bytes.Buffer
	x := func(load float64) float64 { return plotLeft + load/loads[len(loads)-1]*plotInnerW }
	y := func(ms float64) float64 {
		at := math.Log10(min(max(ms, lowestMs), highestMs)/lowestMs) / math.Log10(highestMs/lowestMs)
		return plotTop + (1-at)*plotInnerH
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="%d" fill="%s">`+"\n", plotWidth, plotHeight, fontSize, dark)
	fmt.Fprintf(&b, `<title>%s: latency against load</title><rect width="100%%" height="100%%" fill="#fff"/>`+"\n", c.Name)
	for ms := lowestMs; ms <= highestMs; ms *= 10 {
		fmt.Fprintf(&b, `<path d="M%d %.1fh%d" stroke="%s"/><text x="%d" y="%.1f" text-anchor="end">%g ms</text>`+"\n",
			plotLeft, y(ms), plotInnerW, grey, plotLeft-8, y(ms)+4, math.Round(ms*10)/10)
	}
	for _, p := range c.Points {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f%%</text>`+"\n", x(p.Load), plotHeight-plotBottom+18, 100*p.Load)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">requests per second, of the %.0f that the gateway does at most</text>`+"\n",
		plotLeft+plotInnerW/2, plotHeight-10, c.Max)
	for _, s := range []struct {
		name, colour, dash string
		of                 func(curvePoint) float64
	}{
		{"gateway p99", blue, dashed, func(p curvePoint) float64 { return p.GatewayP99 }},
		{"bare p99", orange, dashed, func(p curvePoint) float64 { return p.BareP99 }},
		{"gateway p50", blue, solid, func(p curvePoint) float64 { return p.GatewayP50 }},
		{"bare p50", orange, solid, func(p curvePoint) float64 { return p.BareP50 }},
	} {
		var path bytes.Buffer
		for i, p := range c.Points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x(p.Load), y(s.of(p)))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="%g" fill="%s"/>`+"\n", x(p.Load), y(s.of(p)), pointRadius, s.colour)
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="%g" stroke-dasharray="%s"/>`+"\n", path.Bytes(), s.colour, line, s.dash)
		last := c.Points[len(c.Points)-1]
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" fill="%s">%s</text>`+"\n", x(last.Load)+8, y(s.of(last))+4, s.colour, s.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
