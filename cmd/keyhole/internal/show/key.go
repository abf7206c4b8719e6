// Package show writes keys, versions, rotations and what stands behind
// dangerous acts for people.
package show

import (
	"fmt"
	"io"
	"strings"

	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
	"keyhole/cmd/keyhole/internal/units"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// Active is the id of a key's active version, or "none".
func Active(k api.Key) string {
	if k.ActiveVersion == 0 {
		return "none"
	}
	return fmt.Sprintf("%s.v%d", k.Name, k.ActiveVersion)
}

// Version finds a version in a key's description; number 0 means the active
// one.
func Version(k api.Key, id keys.VersionID) (api.Version, error) {
	n := id.Number
	if n == 0 {
		n = k.ActiveVersion
	}
	if n == 0 {
		return api.Version{}, keys.Errorf(keys.ErrNoActiveVersion, "key %q has no active version; name one, as %s.vN", k.Name, k.Name)
	}
	for _, v := range k.Versions {
		if v.Version == n {
			return v, nil
		}
	}
	return api.Version{}, keys.Errorf(keys.ErrVersionNotFound, "key %q has no version %d", k.Name, n)
}

// Key writes a key with its policy and versions.
func Key(k api.Key) func(io.Writer) error {
	return func(w io.Writer) error {
		rows := [][]string{
			{"name", k.Name},
			{"purpose", k.Purpose},
			{"algorithm", fmt.Sprintf("%s (%d bits)", k.Algorithm, k.Bits)},
			{"active", Active(k)},
		}
		rows = append(rows, policy(k)...)
		rows = append(rows,
			[]string{"token", k.Token},
			[]string{"tags", app.TagsText(k.Tags)},
			[]string{"description", app.Or(k.Description)},
			[]string{"created", app.Stamp(k.CreatedAt.Time)},
			[]string{"epoch", fmt.Sprint(k.Epoch)},
		)
		if !k.DeleteAt.IsZero() {
			rows = append(rows, []string{"DELETED", "every version will be destroyed at " + app.Stamp(k.DeleteAt.Time) + "; keyhole key restore " + k.Name + " undoes it"})
		}
		if err := term.Table(w, rows...); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		rows = [][]string{{"VERSION", "STATE", "ALGORITHM", "CREATED", "ACTIVATED", "ENDED", "NOTE"}}
		for _, v := range k.Versions {
			rows = append(rows, []string{
				v.KeyID, v.State, v.Algorithm, app.Stamp(v.CreatedAt.Time), app.Stamp(v.ActivateAt.Time), end(v), note(v),
			})
		}
		return term.Table(w, rows...)
	}
}

// policy returns the rows of what a key's policy says: when it rotates, and
// how, as far as that is anything.
func policy(k api.Key) [][]string {
	p := k.Policy
	var when []string
	if p.Period != 0 {
		when = append(when, units.Text(p.Period.Std()))
	}
	if p.Schedule != "" {
		when = append(when, "at "+p.Schedule+" (UTC)")
	}
	if p.MaxOperations != 0 {
		when = append(when, fmt.Sprintf("after %d operations", p.MaxOperations))
	}
	if p.MaxBytes != 0 {
		when = append(when, "after "+units.Volume(p.MaxBytes))
	}
	if len(when) == 0 {
		when = []string{"never"}
	}
	rows := [][]string{{"rotation", strings.Join(when, ", ")}}
	add := func(name, text string) { rows = append(rows, []string{name, text}) }
	if !k.NextRotation.IsZero() {
		add("next rotation", app.Stamp(k.NextRotation.Time))
	}
	if k.Rotation != "" {
		add("running", k.Rotation)
	}
	if p.Announce != 0 {
		add("announce", units.Text(p.Announce.Std())+" before the switch")
	}
	if a := p.Acks; a != nil && a.Require != string(keys.AckNone) && a.Require != "" {
		add("acks", acks(*a))
	}
	if p.Overlap != 0 {
		add("overlap", units.Text(p.Overlap.Std())+", then "+orDefault(p.AfterOverlap, string(keys.OverlapArchive)))
	}
	if p.DestroyDelay != 0 {
		add("destroy delay", units.Text(p.DestroyDelay.Std()))
	}
	return rows
}

func acks(a api.Acks) string {
	who := a.Require
	if a.Require == string(keys.AckQuorum) {
		who = fmt.Sprintf("%d%% of the agents", a.Quorum)
	}
	text := fmt.Sprintf("%s within %s, else %s", who, units.Text(a.Timeout.Std()), orDefault(a.OnTimeout, string(keys.TimeoutAbort)))
	if a.AbsentAfter != 0 {
		text += "; not of those unseen for " + units.Text(a.AbsentAfter.Std())
	}
	return text
}

func orDefault(text, standard string) string {
	if text == "" {
		return standard
	}
	return text
}

// end is when a version's use ended, by whatever did it last.
func end(v api.Version) string {
	end := v.DeactivatedAt
	for _, t := range []api.Time{v.SuspendedAt, v.RevokedAt, v.ArchivedAt, v.DestroyedAt} {
		if t.After(end.Time) {
			end = t
		}
	}
	return app.Stamp(end.Time)
}

// note is what else people should know of a version.
func note(v api.Version) string {
	var notes []string
	if v.RevokeReason != "" {
		notes = append(notes, v.RevokeReason)
	}
	if v.State == string(keys.Deactivated) && !v.OverlapEndsAt.IsZero() {
		notes = append(notes, "its overlap ends at "+app.Stamp(v.OverlapEndsAt.Time))
	}
	if !v.DestroyAt.IsZero() && v.DestroyedAt.IsZero() {
		notes = append(notes, "will be destroyed at "+app.Stamp(v.DestroyAt.Time))
	}
	if v.DestroyedAt.IsZero() && (!v.HSM.NeverExtractable || !v.HSM.AlwaysSensitive) {
		notes = append(notes, "NOT proven non-extractable")
	}
	return app.Or(strings.Join(notes, "; "))
}
