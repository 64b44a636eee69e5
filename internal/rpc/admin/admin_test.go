package admin_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/mqtest"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/rpc/admin"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type clusters struct{ d *mqtest.Fake }

func (c clusters) Driver(string) (mq.Driver, error) { return c.d, nil }

func (c clusters) Trial(*snapshot.Cluster) (mq.Driver, error) {
	return mqtest.NewFake(mqtest.FakeConfig{}), nil
}

type fixture struct {
	adminv1.AdminServiceClient
	conn  *grpc.ClientConn
	fake  *mqtest.Fake
	setup string // the set-up secret
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	log, dir := slog.New(slog.DiscardHandler), t.TempDir()
	st, err := store.Open(t.Context(), filepath.Join(dir, "control.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	box, err := secret.NewBox(make([]byte, secret.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	snaps, fake := snapshot.NewHolder(nil), mqtest.NewFake(mqtest.FakeConfig{})
	svc, err := control.New(t.Context(), control.Config{}, control.Deps{
		Self: snapshot.Node{Name: "n1", GRPC: "127.0.0.1:1"}, Embedded: true, Store: st, Snapshots: snaps, Box: box, Clusters: clusters{fake}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rpc.DefaultConfig()
	cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	server, err := rpc.New(cfg, rpc.Deps{Auth: auth.New(false, snaps, time.Now), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.New(svc, server.Faults()).Register(server); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(server.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	link, err := svc.OfferSetup(t.Context(), filepath.Join(dir, "setup-link"), func(s string) string { return s })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = server.Stop(ctx)
		_ = svc.Close(ctx)
		_ = fake.Close(ctx)
		_ = st.Close()
	})
	return &fixture{adminv1.NewAdminServiceClient(conn), conn, fake, link.Reveal()}
}

func as(t *testing.T, token string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// call makes a call of any method with an empty request.
func call(ctx context.Context, conn *grpc.ClientConn, method string, streams bool) error {
	name := "/" + adminv1.AdminService_ServiceDesc.ServiceName + "/" + method
	if !streams {
		return conn.Invoke(ctx, name, &emptypb.Empty{}, &emptypb.Empty{})
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	_ = stream.CloseSend()
	return stream.RecvMsg(&emptypb.Empty{})
}

func TestEveryMethodAsksForAnAdministrator(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	setup, err := f.Setup(t.Context(), &adminv1.SetupRequest{Secret: f.setup})
	if err != nil {
		t.Fatal(err)
	}
	app, err := f.CreateToken(as(t, setup.GetToken()), &adminv1.CreateTokenRequest{Kind: "app", App: "x"})
	if err != nil {
		t.Fatal(err)
	}
	methods := map[string]bool{}
	for _, m := range adminv1.AdminService_ServiceDesc.Methods {
		methods[m.MethodName] = false
	}
	for _, m := range adminv1.AdminService_ServiceDesc.Streams {
		methods[m.StreamName] = true
	}
	for m, streams := range methods {
		if m == "Setup" {
			continue
		}
		if err := call(t.Context(), f.conn, m, streams); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s without a credential: %v", m, err)
		}
		if err := call(as(t, app.GetToken()), f.conn, m, streams); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s as an app: %v", m, err)
		}
	}
}

func TestSetupOnceOverTheWire(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	if _, err := f.Setup(t.Context(), &adminv1.SetupRequest{Secret: "slc_setup_wrong"}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a wrong secret: %v", err)
	}
	res, err := f.Setup(t.Context(), &adminv1.SetupRequest{Secret: f.setup})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ListNodes(as(t, res.GetToken()), &adminv1.ListNodesRequest{}); err != nil {
		t.Errorf("the first administrator: %v", err)
	}
	if _, err := f.Setup(t.Context(), &adminv1.SetupRequest{Secret: f.setup}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("again: %v", err)
	}
}

func TestAdministratorsDay(t *testing.T) {
	t.Parallel()
	f := setUp(t)
	setup, err := f.Setup(t.Context(), &adminv1.SetupRequest{Secret: f.setup})
	if err != nil {
		t.Fatal(err)
	}
	ctx := as(t, setup.GetToken())
	var answers []proto.Message
	try := func(res proto.Message, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, res)
	}
	const canary = "canary-Qp42"
	spec := &adminv1.ClusterSpec{Name: "k", Kind: "kafka", Bootstrap: []string{"h:1"}, SaslMechanism: "PLAIN", SaslUser: "u", SaslPassword: canary}
	add, err := f.AddCluster(ctx, &adminv1.AddClusterRequest{Cluster: spec})
	try(add, err)
	set, err := f.SetCluster(ctx, &adminv1.SetClusterRequest{Cluster: spec, Version: add.GetCluster().GetCluster().GetVersion()})
	try(set, err)
	lc, err := f.ListClusters(ctx, &adminv1.ListClustersRequest{})
	try(lc, err)
	dc, err := f.DescribeCluster(ctx, &adminv1.DescribeClusterRequest{Name: "k"})
	try(dc, err)
	cc, err := f.CheckCluster(ctx, &adminv1.CheckClusterRequest{Cluster: spec})
	try(cc, err)
	ct, err := f.CreateTopic(ctx, &adminv1.CreateTopicRequest{Name: "日本", Cluster: "embedded", Partitions: 1})
	try(ct, err)
	dt, err := f.DescribeTopic(ctx, &adminv1.DescribeTopicRequest{Name: "日本"})
	try(dt, err)
	lt, err := f.ListTopics(ctx, &adminv1.ListTopicsRequest{})
	try(lt, err)
	tokens, err := f.ListTokens(ctx, &adminv1.ListTokensRequest{})
	try(tokens, err)
	if len(tokens.GetTokens()) != 1 || len(tokens.GetTokens()[0].GetHash()) != 0 {
		t.Errorf("tokens: %v", tokens)
	}
	for _, a := range answers {
		if text := prototext.Format(a); strings.Contains(text, canary) || strings.Contains(text, "sealed") {
			t.Errorf("%T shows a secret: %s", a, text)
		}
	}

	// A null body, an empty one and a key of no bytes stay what they are.
	id := mq.PartitionID{Topic: mq.Topic(dt.GetTopic().GetTopic().GetHomes()[0].GetTopic())}
	f.fake.Append(id, mq.Record{Key: []byte{}}, mq.Record{Body: []byte{}}, mq.Record{Body: []byte{0xff}})
	stream, err := f.ReadMessages(ctx, &adminv1.ReadMessagesRequest{Topic: "日本"})
	if err != nil {
		t.Fatal(err)
	}
	var got []*sluicev1.Delivery
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, res.GetMessage())
	}
	if len(got) != 3 || got[0].Key == nil || got[0].Body != nil || got[1].Key != nil || got[1].Body == nil || got[2].GetBody()[0] != 0xff {
		t.Errorf("messages: %v", got)
	}
	if _, err := f.DescribeTopic(ctx, &adminv1.DescribeTopicRequest{Name: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown topic: %v", err)
	}
}
