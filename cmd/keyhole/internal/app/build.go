package app

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// versionOf returns the version that was linked in, else what the build
// info knows.
func versionOf(linked string) string {
	if linked != "" {
		return linked
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "devel"
}

// Build describes the program.
func (a *App) Build() string {
	return fmt.Sprintf("keyhole %s (%s, %s/%s)", versionOf(a.Version), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
