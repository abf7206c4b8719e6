package admin

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/units"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// policyFlags are the flags that say how a key lives.
type policyFlags struct {
	period, schedule, maxBytes, announce              string
	maxOperations                                     uint64
	acks, acksTimeout, acksOnTimeout, acksAbsentAfter string
	overlap, afterOverlap, destroyDelay               string
}

// policyNames are the names of the flags.
var policyNames = []string{
	"period", "schedule", "max-operations", "max-bytes", "announce", "acks", "acks-timeout", "acks-on-timeout", "acks-absent-after",
	"overlap", "after-overlap", "destroy-delay",
}

// add gives a command the flags.
func (p *policyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.period, "period", "", "rotate by itself after this `TIME`, such as 90d or 720h; 0s: never")
	f.StringVar(&p.schedule, "schedule", "", "rotate by itself at these times: `CRON` expression of five fields, UTC; \"\": never")
	f.Uint64Var(&p.maxOperations, "max-operations", 0, "rotate before a version has signed or encrypted `N` times; 0: no bound")
	f.StringVar(&p.maxBytes, "max-bytes", "", "rotate before a version has signed or encrypted this `VOLUME`, such as 64GiB; 0: no bound")
	f.StringVar(&p.announce, "announce", "", "`TIME` from a version's publication to its switch; 0s: none")
	f.StringVar(&p.acks, "acks", "", "`WHO` must have acknowledged a version before its switch: all, quorum:60 (percent of the subscribed agents) or none")
	f.StringVar(&p.acksTimeout, "acks-timeout", "", "wait for acknowledgements for this `TIME` at most")
	f.StringVar(&p.acksOnTimeout, "acks-on-timeout", "", "`WHAT` to do then with the rotation: abort or activate")
	f.StringVar(&p.acksAbsentAfter, "acks-absent-after", "", "do not wait for agents that were not seen for this `TIME`; 0s: for 24h")
	f.StringVar(&p.overlap, "overlap", "", "`TIME` for which a predecessor verifies and decrypts; 0s: without end")
	f.StringVar(&p.afterOverlap, "after-overlap", "", "`WHAT` to do with it then: archive or destroy")
	f.StringVar(&p.destroyDelay, "destroy-delay", "", "`TIME` in which a destruction can be undone; 0s: 24h")
	app.Complete(cmd, "period", "30d", "90d", "365d", "0s")
	app.Complete(cmd, "schedule")
	app.Complete(cmd, "max-operations")
	app.Complete(cmd, "max-bytes")
	app.Complete(cmd, "announce", "1h", "1d", "0s")
	app.Complete(cmd, "acks", string(keys.AckAll), string(keys.AckQuorum)+":", string(keys.AckNone))
	app.Complete(cmd, "acks-timeout", "1h", "1d", "3d")
	app.Complete(cmd, "acks-on-timeout", string(keys.TimeoutAbort), string(keys.TimeoutActivate))
	app.Complete(cmd, "acks-absent-after", "1h", "1d", "7d")
	app.Complete(cmd, "overlap", "7d", "30d", "0s")
	app.Complete(cmd, "after-overlap", string(keys.OverlapArchive), string(keys.OverlapDestroy))
	app.Complete(cmd, "destroy-delay", "1d", "7d", "30d")
}

// given reports whether any of the flags is.
func (p *policyFlags) given(f *pflag.FlagSet) bool {
	for _, name := range policyNames {
		if f.Changed(name) {
			return true
		}
	}
	return false
}

// change changes in to what the flags that are given say. What makes no
// sense together is the gateway's to say.
func (p *policyFlags) change(f *pflag.FlagSet, in *api.Policy) error {
	var acks api.Acks
	if in.Acks != nil {
		acks = *in.Acks
	}
	for _, span := range []struct {
		name, text string
		to         *api.Duration
	}{
		{"period", p.period, &in.Period}, {"announce", p.announce, &in.Announce}, {"overlap", p.overlap, &in.Overlap},
		{"destroy-delay", p.destroyDelay, &in.DestroyDelay}, {"acks-timeout", p.acksTimeout, &acks.Timeout},
		{"acks-absent-after", p.acksAbsentAfter, &acks.AbsentAfter},
	} {
		if !f.Changed(span.name) {
			continue
		}
		d, err := units.Span("--"+span.name, span.text)
		if err != nil {
			return err
		}
		*span.to = api.Duration(d)
	}
	if f.Changed("schedule") {
		in.Schedule = p.schedule
	}
	if f.Changed("max-operations") {
		in.MaxOperations = p.maxOperations
	}
	if f.Changed("max-bytes") {
		n, err := units.Bytes("--max-bytes", p.maxBytes)
		if err != nil {
			return err
		}
		in.MaxBytes = n
	}
	if f.Changed("after-overlap") {
		in.AfterOverlap = p.afterOverlap
	}
	if f.Changed("acks-on-timeout") {
		acks.OnTimeout = p.acksOnTimeout
	}
	if f.Changed("acks") {
		if err := p.who(f, &acks); err != nil {
			return err
		}
	}
	if acks == (api.Acks{}) || acks == (api.Acks{Require: string(keys.AckNone)}) {
		in.Acks = nil
	} else {
		in.Acks = &acks
	}
	return nil
}

// who reads --acks.
func (p *policyFlags) who(f *pflag.FlagSet, acks *api.Acks) error {
	kind, percent, quorum := strings.Cut(p.acks, ":")
	n, err := strconv.Atoi(percent)
	switch {
	case kind == string(keys.AckQuorum) && quorum && err == nil && n >= 1 && n <= 100:
		acks.Require, acks.Quorum = kind, n
	case kind == string(keys.AckAll) && !quorum:
		acks.Require, acks.Quorum = kind, 0
	case kind == string(keys.AckNone) && !quorum:
		if f.Changed("acks-timeout") || f.Changed("acks-on-timeout") || f.Changed("acks-absent-after") {
			return app.Usagef("--acks none waits for nobody: --acks-timeout, --acks-on-timeout and --acks-absent-after have no meaning beside it")
		}
		*acks = api.Acks{Require: kind}
	default:
		return app.Usagef("--acks wants all, quorum:60 (1 to 100 percent) or none, not %q", p.acks)
	}
	return nil
}
