package admin

import (
	"reflect"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"keyhole/gateway/api"
)

// Flags change the fields that they name, and no others.
func TestPolicyFlags(t *testing.T) {
	t.Parallel()
	const h = api.Duration(time.Hour)
	full := api.Policy{
		Period: 720 * h, Schedule: "0 3 * * *", MaxOperations: 5, MaxBytes: 1 << 20, Announce: 24 * h,
		Acks: &api.Acks{Require: "quorum", Quorum: 60, Timeout: 2 * h, OnTimeout: "activate", AbsentAfter: 3 * h}, Overlap: 48 * h, AfterOverlap: "destroy", DestroyDelay: 72 * h,
	}
	with := func(change func(*api.Policy)) api.Policy {
		p := full
		acks := *full.Acks
		p.Acks = &acks
		change(&p)
		return p
	}
	for _, tt := range []struct {
		args []string
		from api.Policy
		want api.Policy
	}{
		{nil, full, full},
		{[]string{"--period", "90d"}, full, with(func(p *api.Policy) { p.Period = 2160 * h })},
		{[]string{"--period", "0s", "--schedule", ""}, full, with(func(p *api.Policy) { p.Period, p.Schedule = 0, "" })},
		{[]string{"--acks", "all"}, full, with(func(p *api.Policy) { p.Acks.Require, p.Acks.Quorum = "all", 0 })},
		{[]string{"--acks", "quorum:1"}, full, with(func(p *api.Policy) { p.Acks.Quorum = 1 })},
		{[]string{"--acks", "none"}, full, with(func(p *api.Policy) { p.Acks = nil })},
		{[]string{"--acks-timeout", "1d"}, full, with(func(p *api.Policy) { p.Acks.Timeout = 24 * h })},
		{[]string{"--max-operations", "0", "--max-bytes", "1KiB"}, full, with(func(p *api.Policy) { p.MaxOperations, p.MaxBytes = 0, 1024 })},
		{[]string{
			"--period", "30d", "--schedule", "0 3 * * *", "--max-operations", "5", "--max-bytes", "1MiB", "--announce", "1d", "--acks", "quorum:60", "--acks-timeout", "2h",
			"--acks-on-timeout", "activate", "--acks-absent-after", "3h", "--overlap", "2d", "--after-overlap", "destroy", "--destroy-delay", "3d",
		}, api.Policy{}, full},
	} {
		var p policyFlags
		cmd := &cobra.Command{}
		p.add(cmd)
		if err := cmd.ParseFlags(tt.args); err != nil {
			t.Fatal(err)
		}
		got := tt.from
		if err := p.change(cmd.Flags(), &got); err != nil || !reflect.DeepEqual(got, tt.want) || p.given(cmd.Flags()) != (tt.args != nil) {
			t.Errorf("%q: %+v, %v; want %+v", tt.args, got, err, tt.want)
		}
	}
	if full.Acks.Quorum != 60 {
		t.Error("the policy that was read is changed itself")
	}
	for _, args := range [][]string{
		{"--acks", ""}, {"--acks", "quorum"}, {"--acks", "quorum:0"}, {"--acks", "quorum:101"}, {"--acks", "quorum:x"}, {"--acks", "all:1"}, {"--acks", "none:"},
		{"--acks", "none", "--acks-timeout", "1h"}, {"--period", "90"}, {"--max-bytes", "many"}, {"--destroy-delay", "-1h"},
	} {
		var p policyFlags
		cmd := &cobra.Command{}
		p.add(cmd)
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		if err := p.change(cmd.Flags(), new(api.Policy)); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
