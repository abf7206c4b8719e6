//go:build race

package proc

// The gateway under test has the race detector when its tests have it.
var raceFlags = []string{"-race"}

// Race says whether programs have the race detector, which multiplies what
// they take.
const Race = true
