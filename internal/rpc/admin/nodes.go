package admin

import (
	"context"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/internal/rpc"
)

// ListNodes implements AdminService.
func (s *Service) ListNodes(ctx context.Context, _ *adminv1.ListNodesRequest) (*adminv1.ListNodesResponse, error) {
	res := &adminv1.ListNodesResponse{}
	for _, n := range s.control.ListNodes(ctx) {
		res.Nodes = append(res.Nodes, n.ToProto())
	}
	return res, nil
}

// DrainNode implements AdminService.
func (s *Service) DrainNode(ctx context.Context, req *adminv1.DrainNodeRequest) (*adminv1.DrainNodeResponse, error) {
	if err := s.control.DrainNode(ctx, rpc.Who(ctx), req.GetName(), req.GetDrain()); err != nil {
		return nil, err
	}
	return &adminv1.DrainNodeResponse{}, nil
}

// CreateToken implements AdminService.
func (s *Service) CreateToken(ctx context.Context, req *adminv1.CreateTokenRequest) (*adminv1.CreateTokenResponse, error) {
	id, token, err := s.control.CreateToken(ctx, rpc.Who(ctx), req.GetKind(), req.GetApp(), duration(req.GetExpiresInMs()))
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateTokenResponse{Id: id, Token: token.Reveal()}, nil
}

// ListTokens implements AdminService.
func (s *Service) ListTokens(ctx context.Context, _ *adminv1.ListTokensRequest) (*adminv1.ListTokensResponse, error) {
	res := &adminv1.ListTokensResponse{}
	for _, t := range s.control.ListTokens(ctx) {
		p := t.ToProto()
		p.Hash = nil
		res.Tokens = append(res.Tokens, p)
	}
	return res, nil
}

// RevokeToken implements AdminService.
func (s *Service) RevokeToken(ctx context.Context, req *adminv1.RevokeTokenRequest) (*adminv1.RevokeTokenResponse, error) {
	if err := s.control.RevokeToken(ctx, rpc.Who(ctx), req.GetId()); err != nil {
		return nil, err
	}
	return &adminv1.RevokeTokenResponse{}, nil
}
