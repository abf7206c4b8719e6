package wire

import (
	"cmp"
	"slices"
	"time"

	"keyhole/gateway/api"
	"keyhole/keys"
)

func usage(u keys.Usage) api.Usage {
	return api.Usage{
		Operations: u.Applied + u.Processed, Applied: u.Applied, Processed: u.Processed, Bytes: u.Bytes, LastUsedAt: Time(u.LastUse),
	}
}

// Usage says who used which version of k. objections returns what speaks
// against the destruction of a version.
func Usage(k *keys.Key, counted []keys.Usage, now time.Time, objections func(*keys.Version) ([]string, error)) (api.KeyUsage, error) {
	out := api.KeyUsage{Key: k.Name, Versions: []api.VersionUsage{}}
	byVersion := map[uint32][]keys.Usage{}
	for _, u := range counted {
		byVersion[u.Version] = append(byVersion[u.Version], u)
	}
	for _, v := range slices.Backward(k.Versions) {
		if v.CreatedAt.IsZero() {
			continue
		}
		against, err := objections(v)
		if err != nil {
			return api.KeyUsage{}, err
		}
		all, agents := keys.Usage{}, []api.AgentUsage{}
		for _, u := range byVersion[v.Number] {
			all.Add(u)
			agents = append(agents, api.AgentUsage{Principal: u.Principal, Usage: usage(u)})
		}
		slices.SortFunc(agents, func(a, b api.AgentUsage) int {
			return cmp.Or(b.LastUsedAt.Compare(a.LastUsedAt.Time), cmp.Compare(a.Principal, b.Principal))
		})
		out.Versions = append(out.Versions, api.VersionUsage{
			Version: v.Number, KeyID: k.ID(v).String(), State: string(k.StateAt(v, now)), Usage: usage(all), Agents: agents,
			SafeToDestroy: api.SafeToDestroy{Safe: len(against) == 0, Reasons: listed(against)},
		})
	}
	return out, nil
}
