# What `cmake --install` copies, and how other builds find it: CMake's package, and pkg-config.
include(CMakePackageConfigHelpers)
set(installed tersor tersor_runtime)
if(TARGET tersor_c)
  list(APPEND installed tersor_c)
endif()
install(TARGETS ${installed} EXPORT tersor-targets
  ARCHIVE DESTINATION ${libdir} LIBRARY DESTINATION ${libdir})
install(DIRECTORY cpp/include/tersor DESTINATION ${includedir})
install(EXPORT tersor-targets NAMESPACE tersor:: DESTINATION ${libdir}/cmake/tersor)
configure_package_config_file(cmake/tersor-config.cmake.in tersor-config.cmake
  INSTALL_DESTINATION ${libdir}/cmake/tersor)
write_basic_package_version_file(tersor-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tersor-config.cmake
  ${PROJECT_BINARY_DIR}/tersor-config-version.cmake DESTINATION ${libdir}/cmake/tersor)

# ---- pkg-config. Folders inside the prefix are found from where the file lies, however deep that
# is (lib/x86_64-linux-gnu), so that all of it may be moved; others are where they are.
set(pc_libdir ${libdir})
set(pc_includedir ${includedir})
if(IS_ABSOLUTE "${libdir}")
  set(pc_prefix ${CMAKE_INSTALL_PREFIX})
else()
  set(pc_libdir "\${prefix}/${libdir}")
  file(RELATIVE_PATH up "/${libdir}/pkgconfig" "/")
  string(REGEX REPLACE "/$" "" up ${up})
  set(pc_prefix "\${pcfiledir}/${up}")
endif()
if(NOT IS_ABSOLUTE "${includedir}")
  set(pc_includedir "\${prefix}/${includedir}")
endif()

# What a linker that is not C++'s needs besides for the static libraries: the library of C++, as
# this compiler names it, and the system's.
set(static_libraries ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
list(FILTER static_libraries INCLUDE REGEX "^(stdc[+][+]|c[+][+]|c[+][+]abi)$")
list(REMOVE_DUPLICATES static_libraries)
list(APPEND static_libraries m ${CMAKE_DL_LIBS})
list(TRANSFORM static_libraries PREPEND -l)
list(JOIN static_libraries " " static_libraries)

foreach(library IN LISTS installed)
  set(pc_private "-pthread ${static_libraries}")
  if(library STREQUAL "tersor_c")
    set(pc_private "")
  endif()
  configure_file(cmake/tersor.pc.in ${library}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${library}.pc DESTINATION ${libdir}/pkgconfig)
endforeach()
