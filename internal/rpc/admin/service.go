// Package admin answers the admin API, sluice.admin.v1: it turns requests into
// calls of control.Service and answers back. What is allowed and what it means
// is control's business.
package admin

import (
	"context"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/rpc"
)

// Service implements AdminService of gRPC.
type Service struct {
	adminv1.UnimplementedAdminServiceServer
	control *control.Service
	faults  *rpc.Faults
}

// New makes the service; Register adds it to a server.
func New(c *control.Service, faults *rpc.Faults) *Service {
	return &Service{control: c, faults: faults}
}

// Rights says what each method asks of its caller: everything is for
// administrators but the set-up, whose secret is its credential.
func Rights() map[string]rpc.Right {
	rights := map[string]rpc.Right{}
	for _, m := range adminv1.AdminService_ServiceDesc.Methods {
		rights[m.MethodName] = rpc.Admin
	}
	for _, m := range adminv1.AdminService_ServiceDesc.Streams {
		rights[m.StreamName] = rpc.Admin
	}
	rights["Setup"] = rpc.Public
	return rights
}

// Register adds the service to a server.
func (s *Service) Register(server *rpc.Server) error {
	return server.Register(&adminv1.AdminService_ServiceDesc, s, Rights())
}

// Setup implements AdminService.
func (s *Service) Setup(ctx context.Context, req *adminv1.SetupRequest) (*adminv1.SetupResponse, error) {
	token, err := s.control.Setup(ctx, req.GetSecret())
	if err != nil {
		return nil, err
	}
	return &adminv1.SetupResponse{Token: token.Reveal()}, nil
}
