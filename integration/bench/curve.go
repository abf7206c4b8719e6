package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// curveReport is latency against load: both servers get the same constant
// rates of arrival, up to beyond what the gateway can do.
type curveReport struct {
	Name   string       `json:"name"`
	Max    float64      `json:"max"` // requests per second that the gateway does when it is kept busy
	Points []curvePoint `json:"points"`
}

// curvePoint is one rate. Latencies in ms run from the moment at which a
// request was due.
type curvePoint struct {
	Load       float64 `json:"load"` // of Max
	Rate       float64 `json:"rate"` // requests per second
	GatewayP50 float64 `json:"gateway_p50_ms"`
	GatewayP99 float64 `json:"gateway_p99_ms"`
	BareP50    float64 `json:"bare_p50_ms"`
	BareP99    float64 `json:"bare_p99_ms"`
}

// loads are the points of a curve, as parts of the gateway's maximum.
var loads = []float64{0.1, 0.25, 0.5, 0.75, 0.9, 1}

// curveConns is how many connections the arrivals are spread over: more than
// can be busy below the maximum, so that none waits for one.
const curveConns = 64

// curve measures a row's latency against load: medians over the rounds.
func (a *arena) curve(ctx context.Context, r row, rounds int, d time.Duration) (curveReport, error) {
	body, err := r.body()
	if err != nil {
		return curveReport{}, err
	}
	most, err := load(ctx, a.target, r.gatewayPath(), body, 16, 1, d)
	if err != nil {
		return curveReport{}, err
	}
	c := curveReport{Name: r.name, Max: round(most.perSecond, 0)}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	for _, part := range loads {
		rate := part * most.perSecond
		var g50, g99, b50, b99 []float64
		for range rounds {
			g, err := loadAt(ctx, a.target, r.gatewayPath(), body, curveConns, rate, d)
			if err != nil {
				return c, fmt.Errorf("gateway at %.0f/s: %w", rate, err)
			}
			b, err := loadAt(ctx, a.bare, r.barePath(), body, curveConns, rate, d)
			if err != nil {
				return c, fmt.Errorf("bare handler at %.0f/s: %w", rate, err)
			}
			g50, g99, b50, b99 = append(g50, ms(g.p50)), append(g99, ms(g.p99)), append(b50, ms(b.p50)), append(b99, ms(b.p99))
		}
		c.Points = append(c.Points, curvePoint{
			Load: part, Rate: round(rate, 0), GatewayP50: round(median(g50), 3), GatewayP99: round(median(g99), 3),
			BareP50: round(median(b50), 3), BareP99: round(median(b99), 3),
		})
	}
	return c, nil
}

// half returns the point at half load.
func (c curveReport) half() (curvePoint, bool) {
	i := slices.IndexFunc(c.Points, func(p curvePoint) bool { return p.Load == 0.5 })
	if i < 0 {
		return curvePoint{}, false
	}
	return c.Points[i], true
}

func printCurves(w io.Writer, all []curveReport) {
	for _, c := range all {
		fmt.Fprintf(w, "\n%s: latency against load, from arrival, at most %.0f/s\n", c.Name, c.Max)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "load\trequests/s\tp50 ms\tp99 ms\tbare p50\tbare p99\tadded p50\tadded p99\t")
		for _, p := range c.Points {
			fmt.Fprintf(t, "%.0f%%\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n",
				100*p.Load, p.Rate, p.GatewayP50, p.GatewayP99, p.BareP50, p.BareP99, p.GatewayP50-p.BareP50, p.GatewayP99-p.BareP99)
		}
		_ = t.Flush()
	}
}
