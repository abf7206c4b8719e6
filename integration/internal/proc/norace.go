//go:build !race

package proc

var raceFlags []string
