package admin

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func topicInfo(i *control.TopicInfo) *adminv1.TopicInfo {
	p := &adminv1.TopicInfo{
		Topic: i.Topic.ToProto(), Partitions: u32(i.PartitionCount), Replicas: u32(i.Replicas), Config: i.Config, Durability: i.Durability,
	}
	for _, x := range i.Partitions {
		p.PartitionInfos = append(p.PartitionInfos, &adminv1.PartitionInfo{
			Partition: x.ID.String(), Leader: x.Leader, Replicas: x.Replicas, InSync: x.InSync, StartOffset: x.Start, EndOffset: x.End,
		})
	}
	return p
}

func topicInfos(list []*control.TopicInfo) []*adminv1.TopicInfo {
	out := make([]*adminv1.TopicInfo, len(list))
	for i := range list {
		out[i] = topicInfo(list[i])
	}
	return out
}

func u32(n int) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) } //nolint:gosec // bounded

// duration takes milliseconds without overflow.
func duration(ms int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Millisecond)
	return time.Duration(min(max(ms, -most), most)) * time.Millisecond
}

// CreateTopic implements AdminService.
func (s *Service) CreateTopic(ctx context.Context, req *adminv1.CreateTopicRequest) (*adminv1.CreateTopicResponse, error) {
	info, err := s.control.CreateTopic(ctx, rpc.Who(ctx), control.TopicSpec{
		Name: req.GetName(), Cluster: req.GetCluster(), Partitions: int(req.GetPartitions()), Replicas: int(req.GetReplicas()),
		Retention: duration(req.GetRetentionMs()), Config: req.GetConfig(), Order: req.GetOrder(), Owner: req.GetOwner(),
	}, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateTopicResponse{Topic: topicInfo(info)}, nil
}

// AdoptTopics implements AdminService.
func (s *Service) AdoptTopics(ctx context.Context, req *adminv1.AdoptTopicsRequest) (*adminv1.AdoptTopicsResponse, error) {
	infos, err := s.control.AdoptTopics(ctx, rpc.Who(ctx), req.GetCluster(), req.GetTopics(), req.GetAll(), req.GetAs(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &adminv1.AdoptTopicsResponse{Topics: topicInfos(infos)}, nil
}

// ListTopics implements AdminService.
func (s *Service) ListTopics(ctx context.Context, req *adminv1.ListTopicsRequest) (*adminv1.ListTopicsResponse, error) {
	infos, next, err := s.control.ListTopics(ctx, req.GetCluster(), req.GetPrefix(), int(req.GetPageSize()), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &adminv1.ListTopicsResponse{Topics: topicInfos(infos), NextPageToken: next}, nil
}

// DescribeTopic implements AdminService.
func (s *Service) DescribeTopic(ctx context.Context, req *adminv1.DescribeTopicRequest) (*adminv1.DescribeTopicResponse, error) {
	info, err := s.control.DescribeTopic(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &adminv1.DescribeTopicResponse{Topic: topicInfo(info)}, nil
}

// SetTopic implements AdminService.
func (s *Service) SetTopic(ctx context.Context, req *adminv1.SetTopicRequest) (*adminv1.SetTopicResponse, error) {
	info, err := s.control.SetTopic(ctx, rpc.Who(ctx), req.GetName(), req.GetVersion(), control.TopicChange{
		Config: req.GetConfig(), Partitions: int(req.GetPartitions()), Owner: req.GetOwner(), Order: req.GetOrder(),
		RateMessages: req.RateMessages, RateBytes: req.RateBytes,
	}, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &adminv1.SetTopicResponse{Topic: topicInfo(info)}, nil
}

// DeleteTopic implements AdminService.
func (s *Service) DeleteTopic(ctx context.Context, req *adminv1.DeleteTopicRequest) (*adminv1.DeleteTopicResponse, error) {
	if err := s.control.DeleteTopic(ctx, rpc.Who(ctx), req.GetName(), req.GetPhysical(), req.GetDryRun()); err != nil {
		return nil, err
	}
	return &adminv1.DeleteTopicResponse{}, nil
}

// delivery is a message as deliveries look, without a receipt: nothing is leased.
func delivery(m *control.Message) *sluicev1.Delivery {
	p := &sluicev1.Delivery{
		Id: m.ID, Key: m.Record.Key, Body: m.Record.Body, Tag: m.Record.Tag, Topic: m.Topic, Cluster: m.Cluster,
		Partition: m.Partition, Offset: m.Offset, Attempt: u32(m.Attempt),
	}
	if !m.Record.Timestamp.IsZero() {
		p.PublishedAtMs = m.Record.Timestamp.UnixMilli()
	}
	for _, h := range m.Record.Headers {
		p.Headers = append(p.Headers, &sluicev1.Header{Name: h.Name, Value: h.Value})
	}
	return p
}

// ReadMessages implements AdminService.
func (s *Service) ReadMessages(req *adminv1.ReadMessagesRequest, stream grpc.ServerStreamingServer[adminv1.ReadMessagesResponse]) error {
	incomplete, err := s.control.ReadMessages(stream.Context(), control.MessageQuery{
		Topic: req.GetTopic(), Partition: req.GetPartition(), From: req.GetFrom(), Count: int(req.GetCount()),
		ID: req.GetId(), Key: req.Key, Budget: int(req.GetBudget()),
	}, func(m *control.Message) error {
		return stream.Send(&adminv1.ReadMessagesResponse{Message: delivery(m)})
	})
	if err != nil || !incomplete {
		return err
	}
	return stream.Send(&adminv1.ReadMessagesResponse{Incomplete: true})
}
