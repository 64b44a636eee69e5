package admin

import (
	"context"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/secret"
)

func clusterSpec(p *adminv1.ClusterSpec) (*control.ClusterSpec, error) {
	if p == nil {
		return nil, fault.New(fault.InvalidArgument, "the request describes no cluster")
	}
	return &control.ClusterSpec{
		Name: p.GetName(), Kind: mq.Kind(p.GetKind()), Bootstrap: p.GetBootstrap(), Datacenter: p.GetDatacenter(), Side: p.GetSide(),
		SASLMechanism: p.GetSaslMechanism(), SASLUser: p.GetSaslUser(), SASLPassword: secret.New(p.GetSaslPassword()),
		TLS: p.GetTls(), TLSCA: p.GetTlsCa(), TLSCert: p.GetTlsCert(), TLSKey: secret.New(string(p.GetTlsKey())),
		TLSServerName: p.GetTlsServerName(),
	}, nil
}

func clusterInfo(i *control.ClusterInfo) *adminv1.ClusterInfo {
	p := &adminv1.ClusterInfo{
		Cluster: i.Cluster.ToProto(), BrokerVersion: i.Version, Health: i.Health, HealthText: i.HealthText, Capabilities: i.Capabilities,
	}
	// Sealed or not, secrets are nothing to show.
	if p.GetCluster().GetSasl() != nil {
		p.Cluster.Sasl.SealedPassword = nil
	}
	if p.GetCluster().GetTls() != nil {
		p.Cluster.Tls.SealedKey = nil
	}
	for _, b := range i.Brokers {
		health := control.HealthOK
		if b.Err != nil {
			health = control.HealthDown
		}
		p.Brokers = append(p.Brokers, &adminv1.Broker{
			Id: b.Broker, Address: b.Address, Controller: b.Controller, Rack: b.Rack, Health: health, LatencyUs: b.Latency.Microseconds(),
		})
	}
	return p
}

// AddCluster implements AdminService.
func (s *Service) AddCluster(ctx context.Context, req *adminv1.AddClusterRequest) (*adminv1.AddClusterResponse, error) {
	spec, err := clusterSpec(req.GetCluster())
	if err != nil {
		return nil, err
	}
	info, err := s.control.AddCluster(ctx, rpc.Who(ctx), spec, req.GetUnreachableOk(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &adminv1.AddClusterResponse{Cluster: clusterInfo(info)}, nil
}

// ListClusters implements AdminService.
func (s *Service) ListClusters(ctx context.Context, _ *adminv1.ListClustersRequest) (*adminv1.ListClustersResponse, error) {
	res := &adminv1.ListClustersResponse{}
	for _, i := range s.control.ListClusters(ctx) {
		res.Clusters = append(res.Clusters, clusterInfo(i))
	}
	return res, nil
}

// DescribeCluster implements AdminService.
func (s *Service) DescribeCluster(ctx context.Context, req *adminv1.DescribeClusterRequest) (*adminv1.DescribeClusterResponse, error) {
	info, err := s.control.DescribeCluster(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &adminv1.DescribeClusterResponse{Cluster: clusterInfo(info)}, nil
}

// SetCluster implements AdminService.
func (s *Service) SetCluster(ctx context.Context, req *adminv1.SetClusterRequest) (*adminv1.SetClusterResponse, error) {
	spec, err := clusterSpec(req.GetCluster())
	if err != nil {
		return nil, err
	}
	info, err := s.control.SetCluster(ctx, rpc.Who(ctx), spec, req.GetVersion(), req.GetDryRun())
	if err != nil {
		return nil, err
	}
	return &adminv1.SetClusterResponse{Cluster: clusterInfo(info)}, nil
}

// RemoveCluster implements AdminService.
func (s *Service) RemoveCluster(ctx context.Context, req *adminv1.RemoveClusterRequest) (*adminv1.RemoveClusterResponse, error) {
	if err := s.control.RemoveCluster(ctx, rpc.Who(ctx), req.GetName(), req.GetDryRun()); err != nil {
		return nil, err
	}
	return &adminv1.RemoveClusterResponse{}, nil
}

// CheckCluster implements AdminService.
func (s *Service) CheckCluster(ctx context.Context, req *adminv1.CheckClusterRequest) (*adminv1.CheckClusterResponse, error) {
	var spec *control.ClusterSpec
	if req.GetCluster() != nil {
		var err error
		if spec, err = clusterSpec(req.GetCluster()); err != nil {
			return nil, err
		}
	}
	checks, err := s.control.CheckCluster(ctx, req.GetName(), spec)
	if err != nil {
		return nil, err
	}
	res := &adminv1.CheckClusterResponse{}
	for _, c := range checks {
		res.Checks = append(res.Checks, &adminv1.Check{Name: c.Name, Ok: c.OK, Text: c.Text})
	}
	return res, nil
}
