package kafka

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Groups implements mq.Admin.
func (a admin) Groups(ctx context.Context) ([]string, error) {
	ctx, cancel, err := a.begin(ctx, nil, "")
	if err != nil {
		return nil, err
	}
	defer cancel()
	gs, err := a.cl().ListGroups(ctx)
	if err != nil {
		return nil, transportError(err)
	}
	names := gs.Groups()
	slices.Sort(names)
	return names, nil
}

// DescribeGroup implements mq.Admin.
func (a admin) DescribeGroup(ctx context.Context, name string) (mq.GroupDetail, error) {
	ctx, cancel, err := a.begin(ctx, nil, "")
	if err != nil {
		return mq.GroupDetail{}, err
	}
	defer cancel()
	g, kind, err := a.d.describeGroup(ctx, name)
	if err == nil && kind == kip848 {
		g.Protocol = kip848
	}
	return g, err
}

// kip848 names the protocol in which brokers assign partitions themselves.
const kip848 = "consumer (KIP-848)"

// describeGroup also tells the protocol type: "consumer" for classic consumer groups, kip848, "connect", "" for none.
func (d *Driver) describeGroup(ctx context.Context, name string) (mq.GroupDetail, string, error) {
	cl := kadm.NewClient(d.slow)
	var dg kadm.DescribedGroup
	err := d.retry(ctx, func() (bool, error) {
		gs, err := cl.DescribeGroups(ctx, name)
		if err == nil {
			dg, err = gs.On(name, nil)
		}
		if err == nil {
			err = dg.Err
		}
		if err != nil {
			e := transportError(err)
			e.Msg = "group " + name + ": " + e.Msg
			return retriable(e), e
		}
		return false, nil
	})
	notFound := err != nil && mq.ClassOf(err) == mq.NotFound
	if err != nil && !notFound {
		return mq.GroupDetail{}, "", err
	}
	if notFound || dg.State == "Dead" {
		return d.describe848(ctx, name)
	}
	out := mq.GroupDetail{Name: name, State: dg.State, Protocol: dg.Protocol}
	for _, m := range dg.Members {
		gm := mq.GroupMember{ID: m.MemberID, Client: m.ClientID, Host: m.ClientHost}
		if as, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range as.Topics {
				for _, i := range t.Partitions {
					gm.Partitions = append(gm.Partitions, mq.PartitionID{Topic: mq.Topic(t.Topic), Index: i})
				}
			}
		}
		sortPartitions(gm.Partitions)
		out.Members = append(out.Members, gm)
	}
	return out, dg.ProtocolType, nil
}

// describe848 looks whether a group that is not a classic one is one of the newer protocol.
func (d *Driver) describe848(ctx context.Context, name string) (mq.GroupDetail, string, error) {
	missing := mq.Errorf(mq.NotFound, "group %s does not exist", name)
	if d.version(69) < 0 {
		return mq.GroupDetail{}, "", missing
	}
	gs, err := kadm.NewClient(d.slow).DescribeConsumerGroups(ctx, name)
	if err != nil {
		return mq.GroupDetail{}, "", transportError(err)
	}
	g, ok := gs[name]
	if !ok || g.Err != nil {
		// A 3.x broker lists the API and answers UNSUPPORTED_VERSION as long as the new group coordinator is off: then it has no such groups.
		if ok && !errors.Is(g.Err, kerr.GroupIDNotFound) && !errors.Is(g.Err, kerr.UnsupportedVersion) {
			return mq.GroupDetail{}, "", transportError(g.Err)
		}
		return mq.GroupDetail{}, "", missing
	}
	out := mq.GroupDetail{Name: name, State: g.State, Protocol: g.AssignorName}
	for _, m := range g.Members {
		gm := mq.GroupMember{ID: m.MemberID, Client: m.ClientID, Host: m.ClientHost}
		for t, ps := range m.Assignment {
			for i := range ps {
				gm.Partitions = append(gm.Partitions, mq.PartitionID{Topic: mq.Topic(t), Index: i})
			}
		}
		sortPartitions(gm.Partitions)
		out.Members = append(out.Members, gm)
	}
	return out, kip848, nil
}

// GroupOffsets implements mq.Admin.
func (a admin) GroupOffsets(ctx context.Context, name string) (map[mq.PartitionID]mq.Commit, error) {
	if a.d.isClosed() {
		return nil, errClosed()
	}
	return a.d.groupOffsets(ctx, name)
}

// SetGroupOffsets implements mq.Admin. A group with members refuses it: they would not learn of it.
func (a admin) SetGroupOffsets(ctx context.Context, name string, cs map[mq.PartitionID]mq.Commit) error {
	ctx, cancel, err := a.begin(ctx, nil, "")
	if err != nil {
		return err
	}
	defer cancel()
	g, _, err := a.d.describeGroup(ctx, name)
	if err != nil && mq.ClassOf(err) != mq.NotFound {
		return err
	}
	if len(g.Members) > 0 {
		return mq.Errorf(mq.Busy, "group %s has %d members; its positions can be set when they have left", name, len(g.Members))
	}
	for _, part := range splitCommits(cs, maxCommitBytes) {
		codes, err := a.d.commitOffsets(ctx, name, "", -1, part)
		if err != nil {
			return transportError(err)
		}
		for p := range part {
			if code, ok := codes[p]; !ok || code != 0 {
				if !ok {
					code = kerr.UnknownServerError.Code
				}
				return wrapf(codeError(code, "", nil), "group %s, topic %s, partition %s", name, p.Topic, p)
			}
		}
	}
	return nil
}

// DeleteGroup implements mq.Admin.
func (a admin) DeleteGroup(ctx context.Context, name string) error {
	ctx, cancel, err := a.begin(ctx, nil, "")
	if err != nil {
		return err
	}
	defer cancel()
	if a.d.version(42) < 0 {
		return unsupported("deleting groups (Kafka 1.1); a group without members goes by itself")
	}
	resp, err := a.cl().DeleteGroup(ctx, name)
	if err == nil {
		err = resp.Err
	}
	if err != nil {
		e := transportError(err)
		e.Msg = "group " + name + ": " + e.Msg
		return e
	}
	return nil
}
