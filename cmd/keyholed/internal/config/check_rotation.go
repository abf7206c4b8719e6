package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"keyhole/keys"
)

// What is allowed without development: true.
const (
	leastPeriod       = time.Minute
	leastDestroyDelay = 24 * time.Hour
)

// Most of each in one file.
const (
	maxTriggers = 1000
	maxWebhooks = 64
	maxKeyList  = 1000
)

func (k *checker) rotation() {
	r := k.c.Rotation
	k.between("rotation.min_period", r.MinPeriod, time.Second, 366*24*time.Hour)
	k.between("rotation.min_destroy_delay", r.MinDestroyDelay, 0, 366*24*time.Hour)
	k.between("rotation.propagation", r.Propagation, 0, time.Hour)
	k.between("rotation.approval_life", r.ApprovalLife, time.Minute, 30*24*time.Hour)
	if !k.c.Development {
		if r.MinPeriod < leastPeriod {
			k.addf("rotation.min_period", "is %s; less than %s fills tokens with keys and needs development: true", r.MinPeriod, leastPeriod)
		}
		if r.MinDestroyDelay < leastDestroyDelay {
			k.addf("rotation.min_destroy_delay", "is %s; less than %s leaves no time to undo a mistake and needs development: true", r.MinDestroyDelay, leastDestroyDelay)
		}
	}
	for i, act := range r.TwoPeople {
		at := fmt.Sprintf("rotation.two_people[%d]", i)
		k.word(at, act, TwoPeopleDestroy, TwoPeopleDeleteKey)
		if slices.Contains(r.TwoPeople[:i], act) {
			k.addf(at, "%q is given twice", act)
		}
	}
	k.between("events.keep", k.c.Events.Keep, time.Hour, 10*366*24*time.Hour)
}

var triggerReasons = []string{
	string(keys.ReasonScheduled), string(keys.ReasonManual), string(keys.ReasonCompromise),
	string(keys.ReasonPersonnelChange), string(keys.ReasonDeployment), string(keys.ReasonUsageThreshold),
}

func (k *checker) triggers() {
	if len(k.c.Triggers) > maxTriggers {
		k.addf("triggers", "lists %d; the most is %d", len(k.c.Triggers), maxTriggers)
	}
	names := map[string]bool{}
	for i := range k.c.Triggers {
		t, at := &k.c.Triggers[i], fmt.Sprintf("triggers[%d]", i)
		k.name(at+".name", t.Name, names, "triggers", "it stands in the URL and in policies, Trigger::\"NAME\"")
		if len(t.Keys) == 0 {
			k.addf(at+".keys", "is missing; list the keys to rotate")
		}
		k.keyNames(at+".keys", t.Keys)
		if k.required(at+".reason", t.Reason, "why the keys are rotated, like deployment") {
			k.word(at+".reason", t.Reason, triggerReasons...)
		}
	}
}

// name checks the name of a list element and that no other one has it.
func (k *checker) name(path, name string, seen map[string]bool, what, use string) {
	if keys.CheckName(name) != nil {
		k.addf(path, "must be 1 to %d of a-z, 0-9 and inner '-'; %s", keys.MaxNameLen, use)
	}
	if name != "" && seen[name] {
		k.addf(path, "%q names two %s; the names must differ", name, what)
	}
	seen[name] = true
}

func (k *checker) keyNames(path string, names []string) {
	if len(names) > maxKeyList {
		k.addf(path, "lists %d keys; the most is %d", len(names), maxKeyList)
		return
	}
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		if keys.CheckName(name) != nil {
			k.addf(at, "is no key's name: 1 to %d of a-z, 0-9 and inner '-', without wildcards", keys.MaxNameLen)
		}
		if slices.Contains(names[:i], name) {
			k.addf(at, "%q is given twice", name)
		}
	}
}

func (k *checker) webhooks() {
	if len(k.c.Webhooks) > maxWebhooks {
		k.addf("webhooks", "lists %d; the most is %d", len(k.c.Webhooks), maxWebhooks)
	}
	var types []string
	for _, t := range keys.NoticeTypes() {
		types = append(types, string(t))
	}
	names := map[string]bool{}
	for i := range k.c.Webhooks {
		w, at := &k.c.Webhooks[i], fmt.Sprintf("webhooks[%d]", i)
		k.name(at+".name", w.Name, names, "webhooks", "how far it has come is kept under it")
		if k.required(at+".url", w.URL, "where events are sent to, like https://siem.example/keyhole") {
			k.webhookURL(at+".url", w.URL)
		}
		k.keyNames(at+".keys", w.Keys)
		for j, t := range w.Events {
			k.word(fmt.Sprintf("%s.events[%d]", at, j), t, types...)
			if slices.Contains(w.Events[:j], t) {
				k.addf(fmt.Sprintf("%s.events[%d]", at, j), "%q is given twice", t)
			}
		}
		if k.required(at+".signing_key", w.SigningKey, "the name of the Keyhole key that signs what is sent") && keys.CheckNewName(w.SigningKey) != nil {
			k.addf(at+".signing_key", "must be 1 to %d of a-z, 0-9 and inner '-', and not begin with %q", keys.MaxNameLen, keys.ReservedPrefix)
		}
		k.file(at+".ca_file", w.CAFile, writeByAll)
		k.between(at+".timeout", w.Timeout, time.Second, time.Minute)
		k.between(at+".give_up_after", w.GiveUpAfter, time.Minute, 30*24*time.Hour)
		if w.GiveUpAfter >= k.c.Events.Keep {
			k.addf(at+".give_up_after", "is %s; events are kept for %s (events.keep), and one that is gone cannot be sent", w.GiveUpAfter, k.c.Events.Keep)
		}
	}
}

// webhookURL never shows the URL: it may hold a secret.
func (k *checker) webhookURL(path, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || strings.ContainsAny(u.Host, " /"):
		k.addf(path, "is no URL like https://siem.example/keyhole")
	case u.Scheme != "https":
		k.addf(path, "must be https")
	case u.User != nil:
		k.addf(path, "holds a user or password; the receiver knows the sender by the signature of each event")
	case u.Fragment != "":
		k.addf(path, "has a part behind '#', which is never sent; remove it")
	}
}
