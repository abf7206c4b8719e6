package main

import (
	"path/filepath"
	"testing"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// TestSuspendedAuditKey: an audit key that is out of use ends checkpoints, not
// the gateway, which alone can bring it back.
func TestSuspendedAuditKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kh")
	p := devGateway(t, dir)
	id := keys.VersionID{Key: keys.AuditKeyName, Number: 1}
	if _, err := p.caller(dir, "admin.jwt").Suspend(t.Context(), id, api.VersionActRequest{Reason: "suspected"}); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p = devGateway(t, dir)
	admin := p.caller(dir, "admin.jwt")
	if _, err := admin.AuditCheckpoint(t.Context(), true); err == nil {
		t.Error("a suspended key signs a checkpoint")
	}
	if _, err := admin.Resume(t.Context(), id, api.VersionActRequest{Reason: "cleared"}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.AuditCheckpoint(t.Context(), true); err != nil {
		t.Error(err)
	}
	p.stop()
}
