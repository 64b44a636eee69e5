package admin

import (
	"context"

	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func groupInfo(i *control.GroupInfo) *adminv1.GroupInfo {
	p := &adminv1.GroupInfo{
		Group: i.Group.ToProto(), State: i.State, Protocol: i.Protocol, Positions: positions(i.Positions),
		Lag: i.Lag, Clients: u32(i.Clients), Native: i.Native,
	}
	for _, m := range i.Members {
		pm := &adminv1.Member{Id: m.ID, Client: m.Client, Host: m.Host}
		for _, id := range m.Partitions {
			pm.Partitions = append(pm.Partitions, string(id.Topic)+"/"+id.String())
		}
		p.Members = append(p.Members, pm)
	}
	for _, l := range i.Lanes {
		p.Lanes = append(p.Lanes, &nodev1.LaneStatus{
			Topic: l.Topic, Cluster: l.Cluster, Partition: l.Partition, Committed: l.Committed, Fetched: l.Fetched,
			HighWatermark: l.HighWatermark, Leased: u32(l.Leased), Buffered: u32(l.Buffered), Window: u32(l.Window),
			Epoch: l.Epoch, Blocked: l.Blocked,
		})
	}
	return p
}

func positions(list []control.Position) []*adminv1.Position {
	out := make([]*adminv1.Position, len(list))
	for i, x := range list {
		out[i] = &adminv1.Position{
			Topic: x.Topic, Cluster: x.Cluster, Partition: x.Partition, Committed: x.Committed, EndOffset: x.End, Lag: x.Lag,
		}
	}
	return out
}

// ListGroups implements AdminService.
func (s *Service) ListGroups(ctx context.Context, req *adminv1.ListGroupsRequest) (*adminv1.ListGroupsResponse, error) {
	infos, next, err := s.control.ListGroups(ctx, req.GetNative(), req.GetPrefix(), int(req.GetPageSize()), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	res := &adminv1.ListGroupsResponse{NextPageToken: next}
	for _, i := range infos {
		res.Groups = append(res.Groups, groupInfo(i))
	}
	return res, nil
}

// DescribeGroup implements AdminService.
func (s *Service) DescribeGroup(ctx context.Context, req *adminv1.DescribeGroupRequest) (*adminv1.DescribeGroupResponse, error) {
	info, err := s.control.DescribeGroup(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &adminv1.DescribeGroupResponse{Group: groupInfo(info)}, nil
}

// SetGroup implements AdminService.
func (s *Service) SetGroup(ctx context.Context, req *adminv1.SetGroupRequest) (*adminv1.SetGroupResponse, error) {
	ch := control.GroupChange{Paused: req.Paused, Subscriptions: map[string]snapshot.Settings{}}
	for _, sub := range req.GetSubscriptions() {
		if _, twice := ch.Subscriptions[sub.GetTopic()]; twice {
			return nil, fault.New(fault.InvalidArgument, "topic %q stands there twice", sub.GetTopic())
		}
		ch.Subscriptions[sub.GetTopic()] = snapshot.SettingsFromProto(sub)
	}
	if req.Nodes != nil {
		n := int(req.GetNodes())
		ch.Nodes = &n
	}
	info, err := s.control.SetGroup(ctx, rpc.Who(ctx), req.GetName(), req.GetVersion(), ch, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &adminv1.SetGroupResponse{Group: groupInfo(info)}, nil
}

// ResetGroup implements AdminService.
func (s *Service) ResetGroup(ctx context.Context, req *adminv1.ResetGroupRequest) (*adminv1.ResetGroupResponse, error) {
	before, after, err := s.control.ResetGroup(ctx, rpc.Who(ctx), control.ResetRequest{
		Group: req.GetName(), Topic: req.GetTopic(), Partition: req.GetPartition(), To: req.GetTo(), Shift: req.Shift,
	}, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &adminv1.ResetGroupResponse{Before: positions(before), After: positions(after)}, nil
}

// DeleteGroup implements AdminService.
func (s *Service) DeleteGroup(ctx context.Context, req *adminv1.DeleteGroupRequest) (*adminv1.DeleteGroupResponse, error) {
	if err := s.control.DeleteGroup(ctx, rpc.Who(ctx), req.GetName(), req.GetDryRun()); err != nil {
		return nil, err
	}
	return &adminv1.DeleteGroupResponse{}, nil
}

// ListDeadLetters implements AdminService.
func (s *Service) ListDeadLetters(req *adminv1.ListDeadLettersRequest, stream grpc.ServerStreamingServer[adminv1.ListDeadLettersResponse]) error {
	q := control.LetterQuery{Group: req.GetGroup(), Partition: req.GetPartition(), Offset: req.Offset, Count: int(req.GetCount())}
	return s.control.ListDeadLetters(stream.Context(), q, func(l *control.DeadLetter) error {
		p := &adminv1.DeadLetter{
			Message: delivery(l.Message), Cause: l.Cause, OriginTopic: l.OriginTopic, OriginPartition: l.OriginPartition,
			OriginOffset: l.OriginOffset, Attempts: u32(l.Attempts), DeadAtMs: l.DeadAt.UnixMilli(),
		}
		if !req.GetBodies() {
			p.Message.Body = nil
		}
		return stream.Send(&adminv1.ListDeadLettersResponse{Letter: p})
	})
}

// RedeliverDeadLetters implements AdminService. A failure in the middle is an
// answer with what was redelivered until then, and the failure as its last entry.
func (s *Service) RedeliverDeadLetters(ctx context.Context, req *adminv1.RedeliverDeadLettersRequest) (*adminv1.RedeliverDeadLettersResponse, error) {
	count, failed, err := s.control.RedeliverDeadLetters(ctx, rpc.Who(ctx), control.RedeliverRequest{
		Group: req.GetGroup(), Partition: req.GetPartition(), Offset: req.Offset, All: req.GetAll(), ToTopic: req.GetToTopic(),
	}, req.GetDryRun())
	if err != nil && count == 0 && len(failed) == 0 {
		return nil, err
	}
	res := &adminv1.RedeliverDeadLettersResponse{Redelivered: count}
	for _, f := range failed {
		res.Failed = append(res.Failed, s.notRedelivered(f.ID, f.Offset, f.Err))
	}
	if err != nil {
		res.Failed = append(res.Failed, s.notRedelivered("", 0, err))
	}
	return res, nil
}

func (s *Service) notRedelivered(id string, offset int64, err error) *sluicev1.PublishResult {
	r := &sluicev1.PublishResult{Status: sluicev1.Status_STATUS_NOT_SENT, Id: id, Offset: offset, Error: s.faults.Proto(err)}
	if r.GetError().GetMaybeSent() {
		r.Status = sluicev1.Status_STATUS_MAYBE_SENT
	}
	return r
}

// PurgeDeadLetters implements AdminService.
func (s *Service) PurgeDeadLetters(ctx context.Context, req *adminv1.PurgeDeadLettersRequest) (*adminv1.PurgeDeadLettersResponse, error) {
	n, err := s.control.PurgeDeadLetters(ctx, rpc.Who(ctx), req.GetGroup(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &adminv1.PurgeDeadLettersResponse{Purged: n}, nil
}
