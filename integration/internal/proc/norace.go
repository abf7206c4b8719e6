//go:build !race

package proc

var raceFlags []string

// Race says whether programs have the race detector, which multiplies what
// they take.
const Race = false
