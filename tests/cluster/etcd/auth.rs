//! Users and roles while authentication is off: they can be kept, but nobody is asked who they are.

use etcd_client::{Client, ConnectOptions, Permission, PermissionType, RoleRevokePermissionOptions, UserAddOptions};
use tonic::Code;

use super::answers::{get, put, refusal};
use super::target::Target;

/// Users come and go, and change their password.
pub(crate) async fn users(target: &Target) {
    let mut client = target.client_of(0).await;
    client.user_add("auth-user-b", "secret", None).await.unwrap();
    client.user_add("auth-user-a", "", Some(UserAddOptions::new().with_no_pwd())).await.unwrap();
    let listed = client.user_list().await.unwrap();
    let ours: Vec<_> = listed.users().iter().filter(|name| name.starts_with("auth-user-")).collect();
    assert_eq!(ours, ["auth-user-a", "auth-user-b"]);
    assert!(client.user_get("auth-user-a").await.unwrap().roles().is_empty());
    client.user_change_password("auth-user-b", "other").await.unwrap();
    for user in ["auth-user-a", "auth-user-b"] {
        client.user_delete(user).await.unwrap();
    }
    let listed = client.user_list().await.unwrap();
    assert!(!listed.users().iter().any(|name| name.starts_with("auth-user-")));
}

/// Roles have permissions on keys and ranges.
pub(crate) async fn roles(target: &Target) {
    let mut client = target.client_of(0).await;
    let role = "auth-role";
    client.role_add(role).await.unwrap();
    assert!(client.role_get(role).await.unwrap().permissions().is_empty());
    for permission in [
        Permission::read("auth/a"),
        Permission::write("auth/b").with_range_end("auth/c"),
        Permission::read_write("auth/d/").with_prefix(),
    ] {
        client.role_grant_permission(role, permission).await.unwrap();
    }
    // Another permission on the same range takes the place of the first.
    client.role_grant_permission(role, Permission::read_write("auth/a")).await.unwrap();
    let shown = client.role_get(role).await.unwrap();
    let shown: Vec<_> = shown
        .permissions()
        .iter()
        .map(|permission| {
            let range = (permission.key_str().unwrap().to_owned(), permission.range_end_str().unwrap().to_owned());
            (permission.get_type(), range.0, range.1)
        })
        .collect();
    let of = |kind: PermissionType, key: &str, end: &str| (kind as i32, key.to_owned(), end.to_owned());
    let expected = [
        of(PermissionType::Readwrite, "auth/a", ""),
        of(PermissionType::Write, "auth/b", "auth/c"),
        of(PermissionType::Readwrite, "auth/d/", "auth/d0"),
    ];
    assert_eq!(shown, expected);
    assert!(client.role_list().await.unwrap().roles().contains(&role.to_owned()));
    client.role_revoke_permission(role, "auth/a", None).await.unwrap();
    let range = RoleRevokePermissionOptions::new().with_range_end("auth/c");
    client.role_revoke_permission(role, "auth/b", Some(range)).await.unwrap();
    assert_eq!(client.role_get(role).await.unwrap().permissions().len(), 1);
    client.role_delete(role).await.unwrap();
    assert!(!client.role_list().await.unwrap().roles().contains(&role.to_owned()));
}

/// Users have roles, until either is taken away.
pub(crate) async fn roles_of_users(target: &Target) {
    let mut client = target.client_of(0).await;
    let user = "auth-holder";
    client.user_add(user, "secret", None).await.unwrap();
    for role in ["auth-held-b", "auth-held-a"] {
        client.role_add(role).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    assert_eq!(client.user_get(user).await.unwrap().roles(), ["auth-held-a", "auth-held-b"]);
    client.user_revoke_role(user, "auth-held-b").await.unwrap();
    assert_eq!(client.user_get(user).await.unwrap().roles(), ["auth-held-a"]);
    client.role_delete("auth-held-a").await.unwrap();
    assert!(client.user_get(user).await.unwrap().roles().is_empty());
    client.role_delete("auth-held-b").await.unwrap();
    client.user_delete(user).await.unwrap();
}

/// With authentication off, users and their roles stand in nobody's way; to turn it off again is no error.
pub(crate) async fn off(target: &Target) {
    let mut client = target.client_of(0).await;
    client.auth_disable().await.unwrap();
    client.user_add("auth-idle", "secret", None).await.unwrap();
    put(&mut client, "auth/idle", "x").await;
    assert!(get(&mut client, "auth/idle").await.is_some());
    client.user_delete("auth-idle").await.unwrap();
}

/// A client that brings a name and a password is told that nobody asks for them.
pub(crate) async fn client_with_a_password(target: &Target) {
    let options = ConnectOptions::new().with_user("somebody", "secret");
    let connected = Client::connect(&target.endpoints[..1], Some(options)).await;
    let refused = refusal(connected);
    assert_eq!(refused, (Code::FailedPrecondition, "etcdserver: authentication is not enabled".to_owned()));
}
