package kafka

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/mq"
)

// balancers are the assignors that Sluice offers, the preferred one first. Brokers take the one that all members
// know and most prefer: Sluice alone runs cooperatively, with a native neighbour the group takes what that one knows. kgo
// decides by the protocol that was chosen whether a rebalance is eager, so the two kinds may be offered together.
func balancers() []kgo.GroupBalancer {
	return []kgo.GroupBalancer{
		kgo.CooperativeStickyBalancer(), kgo.StickyBalancer(), kgo.RangeBalancer(), kgo.RoundRobinBalancer(),
		renamed{kgo.RoundRobinBalancer(), "RoundRobinAssigner"}, // kafkajs
	}
}

type renamed struct {
	kgo.GroupBalancer
	name string
}

func (r renamed) ProtocolName() string { return r.name }

func offered() []string {
	var names []string
	for _, b := range balancers() {
		names = append(names, b.ProtocolName())
	}
	return names
}

// shareable refuses a group whose present members use what Sluice does not know. What cannot be told is left to the join.
func (d *Driver) shareable(ctx context.Context, name string) error {
	ctx, cancel := d.bound(ctx, d.cfg.AdminTimeout)
	defer cancel()
	g, kind, err := d.describeGroup(ctx, name)
	if err != nil {
		if mq.ClassOf(err) == mq.Auth {
			// The right to describe may be missing where the right to read is there.
			return nil
		}
		if mq.ClassOf(err) == mq.NotFound {
			return nil
		}
		return err
	}
	if len(g.Members) == 0 {
		return nil
	}
	return incompatible(name, kind, g.Protocol)
}

// incompatible is nil where the members' protocol can be shared.
func incompatible(name, kind, assignor string) error {
	if kind != "" && kind != "consumer" {
		return mq.Errorf(mq.Invalid, "group %s is of protocol %q, not a consumer group of the classic protocol; use another group name", name, kind)
	}
	if assignor != "" && !slices.Contains(offered(), assignor) {
		return mq.Errorf(mq.Invalid, "group %s cannot be shared: its members use the assignor %q, Sluice knows %s; add one of these to the native members",
			name, assignor, strings.Join(offered(), ", "))
	}
	return nil
}

// groupHook hears why the membership broke.
type groupHook struct {
	g     *group
	ready chan struct{}
}

var _ kgo.HookGroupManageError = groupHook{}

// OnGroupManageError tells what a retry by kgo cannot mend.
func (h groupHook) OnGroupManageError(err error) {
	<-h.ready
	g := h.g
	ke, ok := errors.AsType[*kerr.Error](err)
	if !ok {
		return
	}
	e := codeError(ke.Code, "", nil)
	switch ke.Code {
	case kerr.InconsistentGroupProtocol.Code:
		g.fail(g.whyInconsistent())
	case kerr.GroupAuthorizationFailed.Code, kerr.TopicAuthorizationFailed.Code, kerr.InvalidSessionTimeout.Code, kerr.InvalidGroupID.Code,
		kerr.FencedInstanceID.Code, kerr.GroupMaxSizeReached.Code, kerr.UnsupportedAssignor.Code:
		e.Msg = "group " + g.cfg.Group + ": " + e.Msg
		g.fail(e)
	}
}

func (g *group) whyInconsistent() *mq.Error {
	ctx, cancel := g.d.bound(context.Background(), 2*time.Second)
	defer cancel()
	desc, kind, err := g.d.describeGroup(ctx, g.cfg.Group)
	if err == nil {
		if why := incompatible(g.cfg.Group, kind, desc.Protocol); why != nil {
			return transportError(why)
		}
	}
	return mq.Errorf(mq.Invalid, "group %s cannot be shared: its members know none of the assignors %s, or use another protocol",
		g.cfg.Group, strings.Join(offered(), ", "))
}

func sortPartitions(ps []mq.PartitionID) {
	slices.SortFunc(ps, func(a, b mq.PartitionID) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Index, b.Index))
	})
}
