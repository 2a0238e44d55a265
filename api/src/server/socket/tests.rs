use super::*;

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    (folder, path)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn it_is_there_while_it_is_held_and_gone_after() {
    let (folder, path) = place();
    let socket = ApiSocket::bind(&path).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
    assert_eq!(mode(&path) & 0o117, 0, "{:o}", mode(&path));
    drop(socket);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_stale_socket_is_replaced() {
    let (_folder, path) = place();
    drop(UnixListener::bind(&path).unwrap());
    fs::write(path.with_extension("sock.lock"), "").unwrap();
    let _socket = ApiSocket::bind(&path).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_live_socket_is_refused_with_and_without_a_lock() {
    let (_folder, path) = place();
    let socket = ApiSocket::bind(&path).unwrap();
    let error = ApiSocket::bind(&path).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(path.exists());
    drop(socket);

    let _other = UnixListener::bind(&path).unwrap();
    let error = ApiSocket::bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    assert!(path.exists());
}

#[test]
fn a_file_is_not_replaced() {
    let (_folder, path) = place();
    fs::write(&path, "precious").unwrap();
    let error = ApiSocket::bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::NoSocket { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_path_that_is_too_long_is_an_error_with_a_source() {
    let (folder, _) = place();
    let error = ApiSocket::bind(&folder.path().join("x".repeat(120))).unwrap_err();
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn what_replaced_the_socket_meanwhile_is_not_removed() {
    let (_folder, path) = place();
    let socket = ApiSocket::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another's").unwrap();
    drop(socket);
    assert!(path.exists());
}

#[test]
fn a_descriptor_of_another_kind_is_refused() {
    for fd in [
        OwnedFd::from(File::open("/dev/null").unwrap()),
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(),
        std::os::unix::net::UnixDatagram::unbound().unwrap().into(),
    ] {
        assert!(matches!(
            ApiSocket::from_fd(fd),
            Err(SocketError::Descriptor(_))
        ));
    }
}
